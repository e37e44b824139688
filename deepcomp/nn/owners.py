"""Which modules hold a parameter."""

from torch import nn


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
