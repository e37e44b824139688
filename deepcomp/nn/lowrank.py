"""Low rank: a linear layer or a convolution becomes a pair, by truncated SVD of its weight.

Xue, Li, Gong, "Restructuring of Deep Neural Network Acoustic Models with Singular Value
Decomposition", Interspeech 2013. Zhang, Zou, He, Sun, "Accelerating Very Deep Convolutional
Networks for Classification and Detection", TPAMI 2016, section 3.1.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..arrays import check_is_dense
from ..pipeline import check_finite
from .convert import torch_source
from .factorable import choose, obstacles_of
from .replace import check_is_unwrapped, mark_replaced, replace_modules

_HUGE = 1 << 24  # entries; from here on the SVD is of float32, which takes half the time and memory


class LowRank(nn.Module):
    """A linear layer or a convolution as two, one after the other: what `factorize` makes.

    The names in the state_dict are ``factors.0.weight``, ``factors.1.weight`` and
    ``factors.1.bias``. The two are ordinary layers, to be pruned, shared and stored as any other.

    Attributes
    ----------
    factors : nn.Sequential
        To `rank` features, without a bias, and from there to the outputs.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.factors = nn.Sequential(first, second)

    def forward(self, x: Tensor) -> Tensor:
        """Compute one factor after the other."""
        return self.factors(x)

    @property
    def weight(self) -> Tensor:
        """The weight that the pair stands for, multiplied at each access."""
        first, second = (layer.weight for layer in self.factors)
        return (second.flatten(1) @ first.flatten(1)).view(len(second), *first.shape[1:])


class Factorized(NamedTuple):
    """What `factorize` did with a layer.

    Attributes
    ----------
    layer : str
        Name of the module.
    rank : int or None
        None if the layer was left as it is.
    energy : float or None
        Fraction of the squared singular values that is kept; None if the layer was left.
    n_before, n_after : int
        Entries of the weight, and of those that are there now.
    reason : str
        Why the layer was left; else empty.
    """

    layer: str
    rank: int | None
    energy: float | None
    n_before: int
    n_after: int
    reason: str

    def __str__(self) -> str:
        if self.rank is None or self.energy is None:
            return f"{self.layer}: left as it is, {self.reason}"
        return (
            f"{self.layer}: rank {self.rank}, {100 * self.energy:.1f} % of the energy, "
            f"{self.n_after:,} weights instead of {self.n_before:,}"
        )


def factorize(
    model: nn.Module,
    rank: int | Mapping[str, int] | None = None,
    energy: float | Mapping[str, float] | None = None,
) -> list[Factorized]:
    """Turn linear layers and convolutions into pairs of lower rank, in place.

    A weight of shape (out, in) becomes one of (rank, in) and one of (out, rank). A convolution of
    k x k becomes one of k x k to `rank` channels, with the stride and padding, and one of 1 x 1
    from there. The pairs are new parameters: make the optimizer after this, and prune and share
    after it, as zeros of the weight are no zeros of the pair.

    A number is for all layers of a model, and leaves those that would not get smaller. In a
    mapping from patterns to numbers, as of `deepcomp.compress`, the first that matches decides, and
    what is named is done.

    Parameters
    ----------
    model : nn.Module
        ``nn.Linear`` and ``nn.Conv2d`` of one group are factorized.
    rank : int or mapping of str to int, optional
        1 up to the smaller side of the weight as a matrix, of out x (in * k * k).
    energy : float or mapping of str to float, optional
        In (0, 1]: each layer gets the lowest rank that keeps this fraction of the sum of its
        squared singular values. What is lost is the squared error of the weight, as a fraction.

    Returns
    -------
    list of Factorized
        For each layer that was in question.

    Raises
    ------
    ValueError
        If not one of `rank` and `energy` is given, a number is out of range or a rank above the
        possible, a pattern matches no layer or one that cannot be factorized (other layers, groups,
        tied, parametrized or pruned weights), or a weight is not finite; the model is not changed
        then.

    References
    ----------
    Xue, Li, Gong, "Restructuring of Deep Neural Network Acoustic Models with Singular Value
    Decomposition", Interspeech 2013. Zhang, Zou, He, Sun, "Accelerating Very Deep Convolutional
    Networks for Classification and Detection", TPAMI 2016, section 3.1.

    Examples
    --------
    >>> import deepcomp, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(784, 300), torch.nn.Linear(300, 10))
    >>> for layer in deepcomp.factorize(model, rank=20):
    ...     print(layer.layer, layer.rank, layer.n_before, layer.n_after, layer.reason)
    0 20 235200 21680
    1 None 3000 3000 its rank is at most 10
    >>> model[0].factors
    Sequential(
      (0): Linear(in_features=784, out_features=20, bias=False)
      (1): Linear(in_features=20, out_features=300, bias=True)
    )
    """
    if (rank is None) == (energy is None):
        raise ValueError(f"rank is {rank!r} and energy is {energy!r}: expected one of the two")
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected an nn.Module, not a {type(model).__name__}")
    check_is_unwrapped(model)
    check_is_dense(model)
    what, setting = ("energy", energy) if rank is None else ("rank", rank)
    amounts, obstacles = choose(what, setting, model)
    done, new = [], {}
    for name, amount in amounts.items():
        layer = model.get_submodule(name)
        if obstacles[name]:
            n = layer.weight.numel()
            done.append(Factorized(name, None, None, n, n, obstacles[name]))
            continue
        result, pair = _factorized(layer, name, amount, isinstance(setting, Mapping))
        done.append(result)
        if pair is not None:
            new[id(layer)] = pair
    _replace(model, new)
    return done


def factorize_like(model: nn.Module, packed: Mapping[str, Any]) -> nn.Module:
    """Give a model the pairs that a file has in the places of its layers, in place.

    So a model that is built anew takes what was saved after `factorize`. The pairs are zero until
    ``packed.restore(model)``, which also says which shapes do not fit.

    Parameters
    ----------
    model : nn.Module
    packed : CompressedModel, or a state_dict
        Layers of which it has no pair are left.

    Returns
    -------
    nn.Module
        The same model.

    Raises
    ------
    ValueError
        If a layer of which there is a pair cannot be factorized, or the weights are not those of a
        pair; the model is not changed then.

    Examples
    --------
    >>> import deepcomp, torch
    >>> from deepcomp.nn.lowrank import factorize_like
    >>> model = torch.nn.Sequential(torch.nn.Linear(30, 20))
    >>> _ = deepcomp.factorize(model, rank=4)
    >>> packed = deepcomp.compress(model)
    >>> fresh = torch.nn.Sequential(torch.nn.Linear(30, 20))
    >>> packed.restore(factorize_like(fresh, packed))
    Restored(missing_keys=[], unexpected_keys=[])
    """
    check_is_unwrapped(model)
    check_is_dense(model)
    new = {}
    for name, obstacle in obstacles_of(model).items():
        layer = model.get_submodule(name)
        names = [f"{name}.factors.{i}.weight" for i in (0, 1)]
        if not all(key in packed for key in names):
            continue
        first, second = (tuple(packed[key].shape) for key in names)
        dims = layer.weight.dim()
        if len(first) != dims or len(second) != dims or second[1:] != (first[0], *[1] * (dims - 2)):
            raise ValueError(
                f"{names[0]!r} and {names[1]!r} are {list(first)} and {list(second)}: expected a "
                f"pair for {name!r}, whose weight is {list(layer.weight.shape)}"
            )
        if obstacle:
            raise ValueError(f"{name!r} is a pair in the file, and cannot be one here: {obstacle}")
        matrix = layer.weight.detach().flatten(1)
        rank, (n_out, n_in) = first[0], matrix.shape
        new[id(layer)] = _pair(layer, matrix.new_zeros(rank, n_in), matrix.new_zeros(n_out, rank))
    _replace(model, new)
    return model


def _factorized(
    layer: nn.Module, name: str, amount: float, is_named: bool
) -> tuple[Factorized, LowRank | None]:
    """Make the pair of a layer, unless it would not be smaller."""
    check_finite(torch_source(f"{name}.weight", layer.weight).weight())
    dtype = torch.float64 if layer.weight.numel() < _HUGE else torch.float32
    matrix = layer.weight.detach().cpu().to(dtype).flatten(1)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()  # LAPACK's are any
    u, v = u * signs, v * signs.T
    energies = s.double().square().cumsum(0)
    kept = (energies / energies[-1]).nan_to_num(1.0)  # a weight of zeros alone loses nothing
    rank = amount if isinstance(amount, int) else int((kept < amount).sum()) + 1
    n_before, n_after = matrix.numel(), rank * sum(matrix.shape)
    if not is_named and n_after >= n_before:
        reason = f"rank {rank} would take {n_after:,} weights instead of {n_before:,}"
        return Factorized(name, None, None, n_before, n_before, reason), None
    root = s[:rank].sqrt()  # half of the scale to each, so that both train alike
    pair = _pair(layer, root[:, None] * v[:rank], u[:, :rank] * root)
    return Factorized(name, rank, float(kept[rank - 1]), n_before, n_after, ""), pair


def _pair(layer: nn.Module, first: Tensor, second: Tensor) -> LowRank:
    """Make the pair of a layer out of two matrices, shapes (rank, in * k * k) and (out, rank)."""
    rank, old = len(first), layer.weight
    if isinstance(layer, nn.Conv2d):
        a = nn.Conv2d(
            layer.in_channels, rank, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
            bias=False, padding_mode=layer.padding_mode, device="meta",
        )  # fmt: skip
        b = nn.Conv2d(rank, layer.out_channels, 1, bias=False, device="meta")
    else:
        a = nn.Linear(layer.in_features, rank, bias=False, device="meta")
        b = nn.Linear(rank, layer.out_features, bias=False, device="meta")
    for factor, matrix in ((a, first), (b, second)):
        weight = matrix.reshape(factor.weight.shape).to(old.device, old.dtype)
        factor.weight = nn.Parameter(weight.contiguous(), old.requires_grad)
    b.bias = layer.bias  # the parameter itself
    return LowRank(a, b)


def _replace(model: nn.Module, new: Mapping[int, LowRank]) -> None:
    old = [layer.weight for layer in model.modules() if id(layer) in new]
    replace_modules(model, new)
    for weight in old:
        mark_replaced(weight, "factorize")
