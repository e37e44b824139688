"""What holds a parameter, and what holds a module."""

import gc
from collections.abc import Iterator
from types import CodeType, CoroutineType, FrameType, FunctionType, GeneratorType, ModuleType
from typing import Any

from torch import Tensor, nn

_ENDS = (type, ModuleType, CodeType, FrameType, GeneratorType, CoroutineType, Tensor)
_TABLES = ("_modules", "_parameters", "_buffers")


def owners_of(model: nn.Module) -> dict[int, list[str]]:
    """Return the names of the modules that hold each parameter, by its id: several if it is tied.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> owners_of(nn.Sequential(layer, nn.Sequential(layer)))[id(layer.weight)]
    ['0']
    """
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    return owners


def held_elsewhere(model: nn.Module) -> dict[int, str]:
    """Find modules that others hold in another way than as their children.

    Who puts another module in the place of such a one changes only part of the model: the rest
    goes on with the old one. Lists, partial functions, closures, bound methods, hooks and what
    objects hold are searched, and modules that are no children of the model; not what is global.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    dict of int to str
        By the id of the module, who holds it.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> model = nn.Sequential(layer)
    >>> model.steps = [layer.forward]
    >>> held_elsewhere(model)[id(layer)]
    "'steps' of the model holds it as well"
    """
    inside = {id(module) for module in model.modules()}
    held: dict[int, str] = {}
    seen: dict[int, Any] = {}
    for name, module in model.named_modules():
        if _is_compiled(module):
            held.setdefault(id(module._modules["_orig_mod"]), "torch.compile calls it by itself")
            continue
        where = f"of {name!r}" if name else "of the model"
        for key, value in vars(module).items():
            for found in _modules_in(value, inside, seen) if key not in _TABLES else ():
                held.setdefault(id(found), f"{key!r} {where} holds it as well")
    return held


def _is_compiled(module: nn.Module) -> bool:
    """Whether it is what ``torch.compile`` makes of a module (whose class is slow to import)."""
    return type(module).__name__ == "OptimizedModule"


def _modules_in(value: Any, inside: set[int], seen: dict[int, Any]) -> Iterator[nn.Module]:
    """Yield modules of the model that a value leads to, but not through one of them.

    What has been seen is kept: nothing is searched twice, and no id comes twice.
    """
    waiting = [value]
    while waiting:
        value = waiting.pop()
        # what the garbage collector does not track, as a number, holds nothing
        if id(value) in seen or isinstance(value, _ENDS) or not gc.is_tracked(value):
            continue
        seen[id(value)] = value
        if isinstance(value, nn.Module):
            if id(value) in inside:
                yield value
            else:
                waiting.append(value._modules if _is_compiled(value) else vars(value))
        elif isinstance(value, FunctionType):  # but for its globals
            waiting += [value.__defaults__, value.__kwdefaults__, vars(value)]
            for cell in value.__closure__ or ():
                waiting += gc.get_referents(cell)
        elif not type(value).__module__.startswith("torch."):
            waiting += gc.get_referents(value)
