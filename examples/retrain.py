"""Train, prune gradually, share, train the codebooks: the steps that the examples have in common.

Han, Mao, Dally, "Deep Compression", ICLR 2016, with the gradual schedule of Zhu and Gupta, 2017,
and the soft targets of Hinton, Vinyals, Dean, 2015.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepcomp
from deepcomp.nn import schedules
from deepcomp.nn.distillation import soft_target_loss

Data = tuple[Tensor, Tensor]  # images, shape (n, channels, height, width), and labels, shape (n,)


@dataclass(frozen=True)
class Recipe:
    """How a network is compressed.

    Attributes
    ----------
    dense_epochs, prune_epochs, tune_epochs : int
        Training before pruning, while the masks shrink and after, and of the codebooks.
    dense_lr, prune_lr, tune_lr : float
        Highest learning rate of each (AdamW, cosine to zero).
    sparsity : float
        Of all weights together.
    bits : mapping of str to int
        For each pattern of names; biases have to be named to be shared.
    ramp : float
        Fraction of prune_epochs in which the sparsity rises.
    shift : int
        Images are shifted by up to so many pixels.
    flip : bool
        And mirrored.
    soft : float
        Part of the loss that compares with the dense network, 0 to 1.
    temperature : float
        At which it compares.
    weight_decay : float
    batch_size : int
    mixed : bool
        Whether layers compute in bfloat16 while training; parameters are float32 all the same.
    """

    dense_epochs: int
    prune_epochs: int
    tune_epochs: int
    sparsity: float
    bits: Mapping[str, int]
    dense_lr: float = 2e-3
    prune_lr: float = 2e-3
    tune_lr: float = 5e-4
    ramp: float = 0.6
    shift: int = 1
    flip: bool = False
    soft: float = 0.5
    temperature: float = 4.0
    weight_decay: float = 0.01
    batch_size: int = 128
    mixed: bool = False


def batches(
    images: Tensor, labels: Tensor, recipe: Recipe, generator: torch.Generator
) -> Iterator[Data]:
    """Yield shuffled batches of one epoch, every image shifted by some pixels."""
    n, _, height, width = images.shape
    s = recipe.shift
    padded = F.pad(images, (s, s, s, s))
    order = torch.randperm(n, generator=generator).to(images.device)
    offsets = torch.randint(0, 2 * s + 1, (2, n, 1), generator=generator).to(images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    mirrored = torch.rand(n, generator=generator).to(images.device) < 0.5
    if recipe.flip:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    for which in order.split(recipe.batch_size):
        if len(which) == recipe.batch_size:
            index = which[:, None, None], rows[which][:, :, None], columns[which][:, None, :]
            yield padded[index[0], :, index[1], index[2]].permute(0, 3, 1, 2), labels[which]


def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    epochs: int,
    lr: float,
    generator: torch.Generator,
    teacher: nn.Module | None = None,
    sparsity: float | None = None,
    penalty: Callable[[], Tensor] | None = None,
) -> None:
    """Train a model; with a sparsity, prune it on the way; with a penalty, add it to the loss."""
    n_steps = epochs * (len(data[0]) // recipe.batch_size)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, weight_decay=recipe.weight_decay, fused=True
    )
    at = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: cosine(t, n_steps))
    pruner = None
    if sparsity is not None:
        ramp = schedules.cubic(round(recipe.ramp * n_steps), every=20)
        pruner = deepcomp.Pruner(model, sparsity=sparsity, scope="global", schedule=ramp)
    model.train()
    for _ in range(epochs):
        for x, y in batches(*data, recipe, generator):
            optimizer.zero_grad()
            with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.mixed):
                loss = _loss(model, x, y, teacher, recipe)
            if penalty:
                loss = loss + penalty()
            loss.backward()
            optimizer.step()
            at.step()
            if pruner:
                pruner.step()
    if pruner:
        pruner.remove()


def cosine(step: int, n_steps: int) -> float:
    """Return the part of the highest learning rate at a step: a short rise, then half a cosine."""
    warmup = min(1.0, (step + 1) / (0.02 * n_steps + 1))
    return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, step / n_steps)))


def _loss(
    model: nn.Module, x: Tensor, y: Tensor, teacher: nn.Module | None, recipe: Recipe
) -> Tensor:
    scores = model(x).float()
    loss = F.cross_entropy(scores, y)
    if teacher is None or not recipe.soft:
        return loss
    with torch.no_grad():
        wanted = teacher(x).float()
    soft = soft_target_loss(scores, wanted, recipe.temperature)
    return (1 - recipe.soft) * loss + recipe.soft * soft


def n_wrong(model: nn.Module, data: Data) -> int:
    """Count the images that a model takes for something else."""
    model.eval()
    images, labels = data
    with torch.inference_mode():
        found = torch.cat([model(part).argmax(1) for part in images.split(500)])
    return int((found != labels).sum())


def deep_compression(
    model: nn.Module, data: Data, recipe: Recipe, generator: torch.Generator
) -> None:
    """Prune, share and retrain a trained model in place, with its dense form as a teacher."""
    teacher = copy.deepcopy(model).eval()
    train(
        model, data, recipe, recipe.prune_epochs, recipe.prune_lr, generator, teacher,
        recipe.sparsity,
    )  # fmt: skip
    deepcomp.share_weights(model, bits=recipe.bits)
    train(model, data, recipe, recipe.tune_epochs, recipe.tune_lr, generator, teacher)
