"""Bayes by Backprop: prune by the signal-to-noise ratio of each weight, and store the means.

    python examples/bayes.py [--data DIR] [--output DIR]

With --data, LeNet-300-100 on MNIST (DIR holds mnist.npz); without, a smaller one on scikit-learn's
digits. A trained network becomes a Bayesian one: each weight has a mean and a standard deviation.
What is pruned by the mean over the deviation is shown beside magnitude pruning of the network that
it came from, which is trained for as long, both without retraining. Needs the extras torch and
bench.

Blundell, Cornebise, Kavukcuoglu, Wierstra, "Weight Uncertainty in Neural Networks", ICML 2015;
Krishnan, Subedar, Tickoo, "Specifying Weight Priors in Bayesian Deep Neural Networks with Empirical
Bayes" (MOPED), AAAI 2020; Kingma, Salimans, Welling, "Variational Dropout and the Local
Reparameterization Trick", NIPS 2015.
"""

import argparse
import copy
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from mnist import N_HELD_OUT, find_images, read_images
from models import lenet_300_100
from retrain import Data, Recipe, batches, n_wrong, train
from torch import Tensor, nn
from torch.nn import functional as F

import deepcomp
from deepcomp.nn import criteria

SPARSITIES = (0.0, 0.5, 0.75, 0.9, 0.95, 0.98)
BITS = 5
N_SAMPLES = 10


class Setting(NamedTuple):
    """How the two networks are trained.

    Attributes
    ----------
    epochs, more_epochs : int
        Before they part, and after.
    temperature : float
        Part of the KL divergence that counts; 1 is Bayes' rule. Below that the posterior is a cold
        one (Wenzel et al., 2020): with few images for so many weights, the prior drowns the data.
    delta : float
        The deviations are this fraction of the trained weights in the beginning.
    prior : float
        Standard deviation of the prior of each weight, whose mean is zero.
    """

    epochs: int
    more_epochs: int
    temperature: float
    delta: float = 0.2
    prior: float = 0.1


MNIST, DIGITS = Setting(10, 10, 1.0), Setting(30, 60, 0.1)
LR, LR_SIGMA = 1e-3, 2e-2  # highest; the deviations have a longer way to go


class BayesianLinear(nn.Module):
    """A linear layer whose weights are independent normal variables.

    The deviation is softplus(weight_rho); a mean that is exactly zero was pruned and has none.
    Outputs are drawn in training, and where `sampling` is set; else they are those of the means.

    Parameters
    ----------
    linear : nn.Linear
        A trained layer: its weights become the means.
    delta : float
        The deviations are this fraction of the weights (MOPED).
    """

    def __init__(self, linear: nn.Linear, delta: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().clone())
        self.bias = nn.Parameter(linear.bias.detach().clone())
        deviation = (delta * self.weight.detach().abs()).clamp(min=1e-5)
        self.weight_rho = nn.Parameter(deviation.expm1().log())
        self.sampling = False

    @property
    def sigma(self) -> Tensor:
        return F.softplus(self.weight_rho)

    def forward(self, x: Tensor) -> Tensor:
        mean = F.linear(x, self.weight, self.bias)
        if not (self.training or self.sampling):
            return mean
        # local reparametrisation: the outputs are drawn, which are normal as well, not the weights
        sigma = self.sigma.masked_fill(self.weight == 0, 0)
        variance = F.linear(x.square(), sigma.square())
        return mean + variance.clamp(min=1e-12).sqrt() * torch.randn_like(mean)

    def divergence(self, prior: float) -> Tensor:
        """Return the KL divergence of the weights from N(0, prior**2), in nats."""
        sigma = self.sigma / prior
        mean = self.weight / prior
        return (0.5 * (sigma.square() + mean.square() - 1) - sigma.log()).sum()


def bayesian(model: nn.Sequential, delta: float) -> nn.Sequential:
    """Return a Bayesian network that begins at a trained one; the parameters keep their names."""
    return nn.Sequential(
        *(
            BayesianLinear(layer, delta) if isinstance(layer, nn.Linear) else copy.deepcopy(layer)
            for layer in model
        )
    )


def layers_of(model: nn.Sequential) -> dict[str, BayesianLinear]:
    return {name: m for name, m in model.named_children() if isinstance(m, BayesianLinear)}


def train_both(
    model: nn.Sequential, data: Data, setting: Setting, shift: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """Train a network, and then on: as it is, and as a Bayesian one; return both."""
    recipe = Recipe(
        setting.epochs, 0, setting.more_epochs, 0.0, {}, shift=shift, weight_decay=0.0,
        batch_size=128 if len(data[0]) > 10_000 else 64,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    train(model, data, recipe, recipe.dense_epochs, recipe.dense_lr, generator)
    other = bayesian(model, setting.delta)
    train(model, data, recipe, recipe.tune_epochs, LR, generator)
    train_bayesian(other, data, recipe, setting, generator)
    return model, other


def train_bayesian(
    model: nn.Sequential,
    data: Data,
    recipe: Recipe,
    setting: Setting,
    generator: torch.Generator,
) -> None:
    """Minimise the expected loss of an image, and its part of the divergence from the prior."""
    layers = layers_of(model).values()
    deviations = [layer.weight_rho for layer in layers]
    others = [p for name, p in model.named_parameters() if not name.endswith("_rho")]
    optimizer = torch.optim.Adam([{"params": others}, {"params": deviations}], fused=True)
    n_steps = setting.more_epochs * (len(data[0]) // recipe.batch_size)
    at = torch.optim.lr_scheduler.OneCycleLR(optimizer, [LR, LR_SIGMA], n_steps + 1, pct_start=0.1)
    model.train()
    for _ in range(setting.more_epochs):
        for x, y in batches(*data, recipe, generator):
            optimizer.zero_grad()
            divergence = sum(layer.divergence(setting.prior) for layer in layers)
            loss = F.cross_entropy(model(x), y) + setting.temperature * divergence / len(data[0])
            loss.backward()
            optimizer.step()
            at.step()


def pruned(model: nn.Sequential, sparsity: float) -> nn.Sequential:
    """Prune over all weights together: by signal to noise if they have deviations."""
    model = copy.deepcopy(model)
    noise = {
        f"{name}.weight": criteria.signal_to_noise(layer.sigma.detach())
        for name, layer in layers_of(model).items()
    }
    deepcomp.Pruner(
        model,
        sparsity={"*.weight": sparsity},
        scope="global",
        criterion=noise or criteria.magnitude,
        min_kept=0,  # by the criterion alone
    ).remove()
    return model


def through_a_file(model: nn.Sequential, path: Path) -> nn.Sequential:
    """Save the weights, or their means, and load them into a plain network."""
    state = {k: t for k, t in model.state_dict().items() if not k.endswith("_rho")}
    deepcomp.save(deepcomp.compress(state, bits=BITS), path)
    n_inputs = state["1.weight"].shape[1]
    plain = lenet_300_100(n_inputs)
    deepcomp.load(path).restore(plain)
    return plain


def n_wrong_averaged(model: nn.Sequential, data: Data) -> int:
    """Count mistakes of the probabilities averaged over samples of the weights."""
    model.eval()
    for layer in layers_of(model).values():
        layer.sampling = True
    images, labels = data
    with torch.inference_mode():
        samples = [F.softmax(model(images), 1) for _ in range(N_SAMPLES)]
    return int((sum(samples).argmax(1) != labels).sum())


def read_digits() -> tuple[Data, Data]:
    """Return scikit-learn's digits, 1,437 for training and 360 for the test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x / 16, y, test_size=0.2, stratify=y, random_state=0)
    x, x_test = (torch.tensor(p, dtype=torch.float32).view(-1, 1, 8, 8) for p in parts[:2])
    y, y_test = map(torch.tensor, parts[2:])
    return (x, y), (x_test, y_test)


def compare(model: nn.Sequential, other: nn.Sequential, test: Data, folder: Path) -> None:
    """Print a row for each sparsity: accuracies in percent, and bytes of the files."""
    n = len(test[0])
    print(f"accuracy on {n:,} test images and bytes of the .dcz file, {BITS} bits")
    print(f"{'':<10}{'by signal to noise':^34}{'by magnitude':^22}")
    print(f"{'sparsity':<10}{'means':>10}{f'{N_SAMPLES} samples':>12}{'bytes':>10}", end="")
    print(f"{'accuracy':>14}{'bytes':>10}")
    for sparsity in SPARSITIES:
        print(f"{100 * sparsity:>6.1f} %", end="")
        for net, path in ((other, folder / "bayes.dcz"), (model, folder / "plain.dcz")):
            path = path.with_stem(f"{path.stem}-{sparsity}")
            net = pruned(net, sparsity)
            wrong = [n_wrong(through_a_file(net, path), test)]
            wrong += [n_wrong_averaged(net, test)] if layers_of(net) else []
            print("".join(f"{100 - 100 * w / n:>11.2f}" for w in wrong), end="")
            print(f"{path.stat().st_size:>11,}", end="")
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=os.environ.get("DEEPCOMP_DATA"),
        help="folder of mnist.npz (default: the variable DEEPCOMP_DATA; else digits)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep the files here")
    parser.add_argument(
        "--shorten", type=int, default=1, metavar="N", help="an N-th of the epochs: a quick look"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.data:
        images, setting = find_images(options.data), MNIST
        (x, y), test = read_images(images, "train"), read_images(images, "test")
        data, model = (x[:-N_HELD_OUT], y[:-N_HELD_OUT]), lenet_300_100()
    else:
        (data, test), setting, model = read_digits(), DIGITS, lenet_300_100(64)
    n = options.shorten
    setting = setting._replace(
        epochs=max(1, setting.epochs // n), more_epochs=max(1, setting.more_epochs // n)
    )
    model, other = train_both(model, data, setting, shift=1 if options.data else 0)
    with tempfile.TemporaryDirectory() as folder:
        compare(model, other, test, options.output or Path(folder))


if __name__ == "__main__":
    main()
