"""The methods that compare.py compares: how a trained network is made small, and trained on.

Each method changes a model in place before the fine-tuning, which is the same for all of them: so
many steps of AdamW, with a cosine schedule, on the labels. Only students begin anew, and may
listen to the trained network as their teacher.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from resnet import ResNet
from retrain import Data, Recipe, batches, cosine
from torch import Tensor, nn
from torch.nn import functional as F

import deepcomp
from deepcomp.nn import channels, criteria, schedules, thinet
from deepcomp.nn.distillation import hint_loss, soft_target_loss
from deepcomp.nn.lowrank import factorize_like

N_LAYERS = 20
N_CALIBRATION = 500  # images from which ThiNet chooses
INNER = "layer*.conv1"  # filters of these are pruned: the others are added to the shortcuts
CONVOLUTIONS = "layer*.conv*.weight"  # shared at few bits; the first and the last layer stay exact
WEIGHT_LR, CODEBOOK_LR, STUDENT_LR = 3e-3, 5e-3, 5e-3
FINE_GRID_LR = 1.5e-3  # of a scale: steps have to be small beside the distance of two values
TEMPERATURE, SOFT = 4.0, 0.7
AUGMENTED = Recipe(0, 0, 0, sparsity=0.0, bits={}, shift=4, flip=True, batch_size=64, mixed=True)

Prepare = Callable[[nn.Module, Data, int], deepcomp.Pruner | None]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Job(NamedTuple):
    """One network to make.

    Attributes
    ----------
    method, strength : str
        As they stand in the table.
    prepare : callable
        Changes a trained model in place, before so many steps; may return a `Pruner`.
    n_steps : int
        Of training; 0 if it is taken as it is.
    lr : float
        Highest learning rate.
    n_layers : int
        Of the ResNet.
    is_shared : bool
        Whether the method shares weights itself.
    teaching : str
        Of students: "labels", "soft" (targets), or "hints" (and soft targets). Else empty.
    """

    method: str
    strength: str
    prepare: Prepare
    n_steps: int
    lr: float = WEIGHT_LR
    n_layers: int = N_LAYERS
    is_shared: bool = False
    teaching: str = ""

    @property
    def name(self) -> str:
        """The name of its files."""
        words = f"{self.method} {self.strength} {self.n_steps}"
        return "".join(c if c.isalnum() or c == "." else "-" for c in words)


def leave(model: nn.Module, data: Data, n_steps: int) -> None:
    """Change nothing."""


def prune_weights(sparsity: float, model: nn.Module, data: Data, n_steps: int) -> deepcomp.Pruner:
    """Prune by magnitude over the whole network; gradually, if there are steps to do so."""
    schedule = schedules.cubic(max(1, 6 * n_steps // 10), every=5) if n_steps else schedules.once()
    return deepcomp.Pruner(model, sparsity=sparsity, scope="global", schedule=schedule)


def prune_filters(
    criterion: criteria.Criterion, fraction: float, model: nn.Module, data: Data, n_steps: int
) -> None:
    """Remove a fraction of the filters of each block's first convolution."""
    pruner = deepcomp.Pruner(model, {f"{INNER}.weight": fraction}, criterion=criterion)
    pruner.remove()
    channels.silence(model, data[0][:2])
    deepcomp.shrink(model, data[0][:2])


def prune_thinet(
    reconstruct: bool, fraction: float, model: nn.Module, data: Data, n_steps: int
) -> None:
    """Remove the same numbers of filters, but those that the next layer misses least."""
    images = data[0][:N_CALIBRATION].split(100)
    thinet.prune(model, {INNER: 1 - fraction}, images, reconstruct=reconstruct)
    deepcomp.shrink(model, data[0][:2])


def factorize(energy: float, model: nn.Module, data: Data, n_steps: int) -> None:
    """Turn layers into pairs of lower rank, where that makes them smaller."""
    deepcomp.factorize(model, energy=energy)


def share(bits: int, grid: str | None, model: nn.Module, data: Data, n_steps: int) -> None:
    """Share the weights of the convolutions; codebooks or scales are trained."""
    deepcomp.share_weights(model, {CONVOLUTIONS: bits}, grid=grid)


def jobs(n_steps: int, n_long: int, quick: bool) -> list[Job]:
    """Return all networks of the table: with n_steps of training, and without.

    Parameters
    ----------
    n_steps : int
        The budget of fine-tuning.
    n_long : int
        Steps of the students that may train longer.
    quick : bool
        Whether one strength of each method is enough.
    """
    found = []
    for method, strengths, prepare, options in _methods():
        for strength, setting in strengths[-2:-1] if quick and len(strengths) > 1 else strengths:
            own = partial(prepare, setting) if setting is not None else prepare
            found += [Job(method, strength, own, n, **options) for n in (0, n_steps)]
    for n_layers in (8,) if quick else (8, 14):
        for teaching in ("labels", "soft", "hints") if n_layers == 8 else ("labels", "soft"):
            lengths = (n_steps, n_long) if n_layers == 8 and teaching != "hints" else (n_steps,)
            found += [_student(n_layers, teaching, n, n > n_steps) for n in lengths]
    return found


def _methods() -> list[tuple[str, list[tuple[str, Any]], Callable[..., Any], dict[str, Any]]]:
    """Return names, strengths as they are called and as they are, functions, options of jobs."""
    sparsities = [(f"{s:.0%} of weights", s) for s in (0.7, 0.8, 0.9, 0.95)]
    filters = [(f"{f:.0%} of filters", f) for f in (0.25, 0.5, 0.75)]
    energies = [(f"{e:.0%} of energy", e) for e in (0.9, 0.8, 0.65)]
    widths = [(f"{b} bits", b) for b in (5, 4, 3, 2)]
    shared = {"lr": CODEBOOK_LR, "is_shared": True}
    fine_grid = {"lr": FINE_GRID_LR, "is_shared": True}
    return [
        ("dense", [("unchanged", None)], leave, {}),
        ("weights, magnitude", sparsities, prune_weights, {}),
        ("filters, L1", filters, partial(prune_filters, criteria.l1_norm), {}),
        ("filters, FPGM", filters, partial(prune_filters, criteria.geometric_median), {}),
        ("ThiNet", filters, partial(prune_thinet, False), {}),
        ("ThiNet, reconstructed", filters, partial(prune_thinet, True), {}),
        ("low rank", energies, factorize, {}),
        ("k-means", widths, _share_on(None), shared),
        ("uniform grid", widths[:1], _share_on("uniform"), fine_grid),
        ("uniform grid", widths[1:], _share_on("uniform"), shared),
        ("ternary", [("-s, 0, s", 2)], _share_on("ternary"), shared),
        ("binary", [("-s, s", 1)], _share_on("uniform"), shared),
    ]


def _share_on(grid: str | None) -> Callable[..., None]:
    return lambda bits, *rest: share(bits, grid, *rest)


def _student(n_layers: int, teaching: str, n_steps: int, is_long: bool) -> Job:
    taught = {"labels": "", "soft": ", soft targets", "hints": ", soft targets, hints"}[teaching]
    strength = f"ResNet-{n_layers}{', longer' if is_long else ''}"
    return Job(
        f"student{taught}", strength, leave, n_steps, STUDENT_LR, n_layers, teaching=teaching
    )


def fine_tune(
    model: nn.Module, data: Data, n_steps: int, lr: float, loss_of: Loss,
    pruner: deepcomp.Pruner | None = None, seed: int = 0,
) -> None:  # fmt: skip
    """Train for so many steps, in bfloat16, on shifted and mirrored images."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, fused=True)
    at = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: cosine(t, n_steps))
    epochs = (batches(*data, AUGMENTED, generator) for _ in itertools.count())
    model.train()
    for x, y in itertools.islice(itertools.chain.from_iterable(epochs), n_steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, x.contiguous(memory_format=torch.channels_last), y)
        loss.backward()
        optimizer.step()
        at.step()
        if pruner:
            pruner.step()


def on_labels(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the cross entropy."""
    return F.cross_entropy(model(x).float(), y)


def on_teacher(teacher: nn.Module, use_hints: bool) -> Loss:
    """Make the loss of a student: labels and soft targets, and hints in the middle if wanted."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            wanted, middle = _with_features(teacher, x)
        scores, own = _with_features(model, x)
        value = (1 - SOFT) * F.cross_entropy(scores, y)
        value = value + SOFT * soft_target_loss(scores, wanted, TEMPERATURE)
        return value + hint_loss(own, middle) if use_hints else value

    return loss


def _with_features(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores, and the features after the second stage, where all have 32 channels."""
    kept: list[Tensor] = []
    with model.layer2.register_forward_hook(lambda *call: kept.append(call[-1])):
        scores = model(x).float()
    return scores, kept[0].float()


def make(job: Job, trained: ResNet, data: Data) -> nn.Module:
    """Return the network of a job: the trained one, changed, or a student of it."""
    model = ResNet(job.n_layers).to(memory_format=torch.channels_last)
    loss_of = on_labels
    if job.teaching in ("soft", "hints"):
        loss_of = on_teacher(trained, job.teaching == "hints")
    if not job.teaching:
        model.load_state_dict(trained.state_dict())
    model.eval()
    pruner = job.prepare(model, data, job.n_steps)
    if job.n_steps:
        fine_tune(model, data, job.n_steps, job.lr, loss_of, pruner)
    if pruner:
        pruner.remove()
    return model.eval()


def restored(packed: deepcomp.CompressedModel, n_layers: int, layers: str = "dense") -> Any:
    """Build the network anew and load a file: what a user of the file gets.

    Returns
    -------
    model : nn.Module
    choices : list of deepcomp.nn.choice.Choice
        Which of its layers compute from the compressed form.
    """
    model = factorize_like(ResNet(n_layers), packed)
    found = packed.restore(model, resize=True, layers=layers)
    return model.eval().to(memory_format=torch.channels_last), found.layers
