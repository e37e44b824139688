"""Put compressed weights into modules."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import torch

from .choice import Choice, choose_layers, replace_layers
from .convert import DTYPES, flat_patterns
from .replace import check_is_unwrapped
from .resize import Resizing, apply_plan, plan_resizing

if TYPE_CHECKING:
    from ..model import CompressedModel
    from ..tensor import CompressedTensor


_WRAPPERS = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}
NOT_STRICT = "strict=False restores the others"


class _Names(NamedTuple):
    missing_keys: list[str]
    unexpected_keys: list[str]


class Restored(_Names):
    """Names that were only in the model, and names that were only in the file.

    Attributes
    ----------
    missing_keys, unexpected_keys : list of str
    layers : list of Choice
        For each weight of the model (parameters of two or more dimensions) whether its layer
        computes from the compressed form, and why; empty if all layers were to be dense.
    """

    layers: list[Choice]


def restore(
    packed: "CompressedModel",
    model: torch.nn.Module,
    strict: bool,
    layers: str,
    batch: int,
    verbose: bool,
    resize: bool,
) -> Restored:
    """Put weights into a module; see `CompressedModel.restore`."""
    if layers not in ("dense", "sparse", "auto"):
        raise ValueError(f"layers is {layers!r}: expected 'dense', 'sparse' or 'auto'")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch is {batch!r}: expected an integer of 1 or more")
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"expected an nn.Module to restore into, not a {type(model).__name__}")
    targets, masks = _targets(model)
    shapes = {name: packed[name].shape for name in packed} if resize else {}
    plan, problems = plan_resizing(model, shapes)
    if plan:
        check_is_unwrapped(model)
    _check_memory(packed, model, targets, masks, strict)
    _check(packed, model, targets, strict, plan, problems)
    for name in packed:
        # the old weights are gone when layers have been resized: nothing may go wrong after it
        packed[name].verify() if plan else packed[name].check()
    choices = [] if layers == "dense" else choose_layers(packed, model, layers, batch)
    if plan:
        apply_plan(plan, "restore(resize=True)")
        targets, masks = _targets(model)
    replaced = {f"{c.layer}.weight" for c in choices if c.is_sparse}
    written = _write(packed, targets, masks, replaced)
    _multiply(model, targets, masks)
    missing = _missing(packed, targets)
    unexpected = [name for name in packed if name not in targets]
    left = {name: ref(targets[name]) for name in replaced if id(targets[name]) not in written}
    del targets, plan
    replace_layers(packed, model, choices)
    _write_held(packed, left)
    restored = Restored(missing, unexpected)
    restored.layers = choices
    if verbose:
        print(*choices, sep="\n")
    return restored


def _targets(model: torch.nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is written to, and the masks of what ``torch.nn.utils.prune`` has folded."""
    targets = model.state_dict(keep_vars=True)
    folded = [n.removesuffix("_orig") for n in targets if n.endswith("_orig")]
    folded = [n for n in folded if f"{n}_mask" in targets and n not in targets]
    for name in folded:
        targets[name] = targets.pop(f"{name}_orig")
    return targets, {name: targets.pop(f"{name}_mask") for name in folded}


def _missing(packed: "CompressedModel", targets: dict[str, Any]) -> list[str]:
    """List what the file does not give, not even under the name of a tensor that is tied to it."""
    given = {id(target) for name, target in targets.items() if name in packed}
    return [n for n, target in targets.items() if n not in packed and id(target) not in given]


def _tied_apart(packed: "CompressedModel", targets: dict[str, Any]) -> list[str]:
    """Find names that are one tensor in the model, and in the file two that differ."""
    problems = []
    first_names: dict[int, str] = {}
    for name in packed:
        if name not in targets:
            continue
        first = first_names.setdefault(id(targets[name]), name)
        if packed[first].name != packed[name].name and not _are_equal(packed[first], packed[name]):
            problems.append(f"{first} and {name} are tied in the model, and differ in the file")
    return problems


def _are_equal(a: "CompressedTensor", b: "CompressedTensor") -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return bool((a.decode_patterns() == b.decode_patterns()).all())


def _write(
    packed: "CompressedModel", targets: dict[str, Any], masks: dict[str, Any], replaced: set[str]
) -> dict[int, str]:
    """Write what layers need that are not replaced; return which tensor each target got."""
    needed = {id(target) for name, target in targets.items() if name not in replaced}
    written: dict[int, str] = {}
    with torch.no_grad():
        for name in packed:
            target = targets.get(name)
            if (
                target is None
                or id(target) not in needed
                or written.get(id(target)) == packed[name].name
            ):
                continue
            _decode_into(packed, name, target)
            written[id(target)] = packed[name].name
            if name in masks:
                masks[name].copy_(target != 0)
    return written


def _write_held(packed: "CompressedModel", left: dict[str, "ref[torch.Tensor]"]) -> None:
    """Write the weights of replaced layers that somebody still holds, who may compute with them."""
    with torch.no_grad():
        for name, reference in left.items():
            target = reference()
            if target is not None:
                _decode_into(packed, name, target)


def _multiply(model: torch.nn.Module, targets: dict[str, Any], masks: dict[str, Any]) -> None:
    """Let the products of ``torch.nn.utils.prune`` be of the new weights before a forward pass."""
    for name, mask in masks.items():
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        if attribute in vars(module):  # neither a parameter nor a property
            setattr(module, attribute, mask.to(targets[name].dtype) * targets[name])


def _decode_into(packed: "CompressedModel", name: str, target: torch.Tensor) -> None:
    tensor = packed[name]
    is_plain = target.device.type == "cpu" and target.is_contiguous()
    if is_plain and target.dtype == DTYPES.get(tensor.dtype):
        tensor.decode_patterns(flat_patterns(target))
    else:
        target.copy_(tensor.to_torch())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _prefix_hint(packed: "CompressedModel", targets: dict[str, Any]) -> str:
    """Say that the names differ by what wrappers put before them, or by low rank, if so."""
    of_file, of_model = _wrapping(packed), _wrapping(targets)
    bare = {name.removeprefix(of_file) for name in packed}
    if of_file != of_model and bare == {name.removeprefix(of_model) for name in targets}:
        hints = []
        if of_model:
            hints.append(
                f"the model is wrapped by {_wrappers(of_model)}: "
                f"restore into model.{of_model.removesuffix('.')}"
            )
        if of_file:
            hints.append(
                f"the names in the file begin with {of_file!r}, as those of {_wrappers(of_file)}: "
                "restore into a model that is wrapped so, or save what it wraps"
            )
        return "; ".join(hints)
    if any(name.endswith(".factors.0.weight") and name not in targets for name in packed):
        return (
            "the file has layers of low rank: deepcomp.nn.lowrank.factorize_like(model, packed) "
            "makes them in the model"
        )
    return ""


def _wrapping(names: Iterable[str]) -> str:
    """Return what wrappers have put before all names."""
    names, found = list(names), ""
    while names:
        prefix = next((p for p in _WRAPPERS if all(n.startswith(found + p) for n in names)), "")
        if not prefix:
            break
        found += prefix
    return found


def _wrappers(prefix: str) -> str:
    return " and ".join(_WRAPPERS[f"{part}."] for part in prefix.split(".")[:-1])


def _layer_hint(packed: "CompressedModel", targets: dict[str, Any]) -> str:
    """Name a layer whose weight the model makes itself, if there is one."""
    for name in targets:
        before, found, after = name.partition("parametrizations.")
        start = name.removesuffix("section")  # as of SparseLinear
        if found and before + after.partition(".")[0] in packed:
            what = "is under share_weights, or another parametrization"
        elif f"{start}weight" in packed and f"{start}_extra_state" in targets and start != name:
            before, what = start, "computes from the compressed form already"
        else:
            continue
        return f"layer {before.rstrip('.')!r} {what}: restore into a network built anew"
    return ""


def _resize_hint(packed: "CompressedModel", model: torch.nn.Module, differing: list[str]) -> str:
    """Say what other shapes need, if that is all that differs."""
    plan, reasons = plan_resizing(model, {name: packed[name].shape for name in packed})
    if reasons or not _planned(plan).issuperset(differing):
        return ""
    return "resize=True gives the layers the file's shapes"


def _planned(plan: list[Resizing]) -> set[str]:
    return {f"{r.name}.{key}".removeprefix(".") for r in plan for key in r.shapes}


def _check_memory(
    packed: "CompressedModel",
    model: torch.nn.Module,
    targets: dict[str, Any],
    masks: dict[str, Any],
    strict: bool,
) -> None:
    """Raise RuntimeError where what is written would be lost."""
    written = {**targets, **{f"{name}_mask": mask for name, mask in masks.items()}}
    lost = [
        name
        for name, target in written.items()
        if (strict or name.removesuffix("_mask") in packed) and getattr(target, "is_meta", False)
    ]
    if lost:
        verb = "is" if len(lost) == 1 else "are"
        raise RuntimeError(
            f"{_cannot(packed, model)}: {_listed(lost)} {verb} on the meta device: "
            "expected tensors with memory: call model.to_empty(device='cpu') first"
        )


def _check(
    packed: "CompressedModel",
    model: torch.nn.Module,
    targets: dict[str, Any],
    strict: bool,
    plan: list[Resizing],
    reasons: list[str],
) -> None:
    problems = []
    planned = _planned(plan)
    hint = _layer_hint(packed, targets) or _prefix_hint(packed, targets)
    if strict:
        # a counter that old checkpoints lack, and that load_state_dict does not ask for either
        missing = [n for n in _missing(packed, targets) if not n.endswith("num_batches_tracked")]
        unexpected = [name for name in packed if name not in targets]
        if missing:
            problems.append(f"missing in the file: {_listed(missing)}")
        if unexpected:
            problems.append(f"not in the model: {_listed(unexpected)}")
        if problems and not hint and any(name in targets for name in packed):
            problems.append(NOT_STRICT)
    elif packed and targets and not any(name in targets for name in packed):
        problems.append(
            f"no name of the file ({_listed(list(packed))}) is in the model "
            f"({_listed(list(targets))})"
        )
    differing = []
    for name, target in targets.items():
        if not isinstance(target, torch.Tensor):
            problems.append(f"{name} is not a tensor but a {type(target).__name__}")
        elif name in packed and name not in planned and target.shape != packed[name].shape:
            differing.append(name)
    if differing and not problems:
        hint = hint or _resize_hint(packed, model, differing)
    for name in differing:
        expected, found = list(targets[name].shape), list(packed[name].shape)
        problems.append(f"{name}: expected shape {expected}, found {found}")
    problems += reasons if problems else [*reasons, *_tied_apart(packed, targets)]
    if problems:
        problems += [hint] if hint else []
        raise RuntimeError(f"{_cannot(packed, model)}: {'; '.join(problems)}")


def _cannot(packed: "CompressedModel", model: torch.nn.Module) -> str:
    origin = next((tensor.origin for tensor in packed.values()), "")
    return f"{origin}{': ' if origin else ''}cannot restore {type(model).__name__}"
