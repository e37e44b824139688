"""Which layers of a model can be factorized, and which rank or energy each one gets."""

import numbers
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..patterns import matches
from .owners import owners_of


def choose(
    what: str, setting: Any, model: nn.Module
) -> tuple[dict[str, int | float], dict[str, str]]:
    """Find the rank or the energy of each layer.

    Parameters
    ----------
    what : {"rank", "energy"}
    setting : number, or mapping of str to number
        A number goes to all layers. In a mapping, the first pattern that matches decides; None
        takes a layer out.
    model : nn.Module

    Returns
    -------
    amounts : dict of str to int or float
        At least one of them for a layer that can be factorized.
    obstacles : dict of str to str
        As of `obstacles_of`, for a rank that is too high as well.

    Raises
    ------
    ValueError
        If a number is out of range, a pattern matches no layer or one that cannot be factorized,
        or there is none that can be.
    """
    obstacles = obstacles_of(model)
    is_named = isinstance(setting, Mapping)
    amounts = _assigned(what, setting, list(obstacles))
    for name, amount in amounts.items():
        if not obstacles[name] and isinstance(amount, int):
            largest = min(model.get_submodule(name).weight.flatten(1).shape)
            obstacles[name] = f"its rank is at most {largest}" if amount > largest else ""
        if is_named and obstacles[name]:
            raise ValueError(f"{what} of {name!r} is {amount}: {obstacles[name]} (None: left out)")
    if all(obstacles[name] for name in amounts):
        found = "; ".join(f"{name!r}: {why}" for name, why in list(obstacles.items())[:3] if why)
        raise ValueError(
            f"{what}={setting!r} finds no layer in {type(model).__name__}: expected an nn.Linear "
            f"or nn.Conv2d that can be factorized, found {found or 'none'}"
        )
    return amounts, obstacles


def _assigned(what: str, setting: Any, names: list[str]) -> dict[str, int | float]:
    if not isinstance(setting, Mapping):
        return dict.fromkeys(names, _checked(what, "every layer", setting))
    assigned: dict[str, Any] = {}
    for pattern, number in setting.items():
        value = None if number is None else _checked(what, pattern, number)
        matching = [name for name in names if matches(f"{name}.weight", pattern)]
        if not matching:
            raise ValueError(f"{what}: the pattern {pattern!r} matches no linear or conv layer")
        for name in matching:
            assigned.setdefault(name, value)
    return {name: value for name, value in assigned.items() if value is not None}


def _checked(what: str, name: str, value: Any) -> int | float:
    kind = numbers.Integral if what == "rank" else numbers.Real
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number or not (value >= 1 if what == "rank" else 0 < value <= 1):
        expected = "an integer of 1 or more" if what == "rank" else "a number in (0, 1]"
        raise ValueError(f"{what} of {name!r} is {value!r}: expected {expected}")
    return int(value) if what == "rank" else float(value)


def obstacles_of(model: nn.Module) -> dict[str, str]:
    """Return for each linear or conv layer why it cannot be factorized; empty if it can."""
    owners = owners_of(model)
    kinds = nn.Linear | nn.modules.conv._ConvNd
    return {
        name: _obstacle(name, module, owners)
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    }


def _obstacle(name: str, layer: nn.Module, owners: Mapping[int, list[str]]) -> str:
    if not {"weight", "bias"} <= layer._parameters.keys():  # its class is then another as well
        return "its weight or bias is made by a parametrization or is being pruned"
    if type(layer) not in (nn.Linear, nn.Conv2d):
        return f"it is a {type(layer).__name__}, expected an nn.Linear or nn.Conv2d"
    if not name:
        return "it is the whole model, and cannot be replaced in place"
    if getattr(layer, "groups", 1) != 1:
        return f"it has {layer.groups} groups, expected one"
    others = [other for other in owners[id(layer.weight)] if other != name]
    if others:
        return f"its weight is tied to that of {others[0]!r}"
    if not layer.weight.is_floating_point() or 0 in layer.weight.shape:
        found = f"{layer.weight.dtype} {list(layer.weight.shape)}"
        return f"its weight is {found}, expected floats, and at least one"
    return ""
