"""The models that configs of transformers describe: built without their weights, and compared.

Nothing is fetched from elsewhere, and no code beside a config is run.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What a config may ask for that would run code of the folder or fetch it from elsewhere; models of
# transformers do without.
_CODE = ("attn_implementation", "experts_implementation", "auto_map", "custom_pipelines")

# What a config may have the Hub or timm provide by its name: timm takes URLs and pickles as well.
_PROVIDED = ("backbone", "backbone_kwargs", "use_timm_backbone", "architecture", "model_args")


def import_transformers() -> Any:
    """Return transformers; raise ImportError, with the extra that has it, if it is not there."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"deepcomp.hf needs transformers: pip install 'deepcomp[transformers]' ({error})"
        ) from None
    return transformers


def find_class(name: Any) -> Any:
    """Return the model class of transformers with this name; None if there is none."""
    transformers = import_transformers()
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    is_whole = getattr(found, "config_class", None) is not None  # the abstract class has none
    return found if is_model and is_whole else None


def read_config(path: Path) -> tuple[Any, Any]:
    """Return the class that a config names, and the config."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    architectures = settings.get("architectures") if isinstance(settings, dict) else None
    if not isinstance(architectures, list) or len(architectures) != 1:
        raise ValueError(f"{path}: architectures is {architectures!r}: expected a list of one name")
    model_class = find_class(architectures[0])
    if model_class is None:
        raise ValueError(
            f"{path}: architectures is {architectures!r}: "
            f"transformers {import_transformers().__version__} has no such model"
        )
    refuse_provided(path, settings)
    try:
        return model_class, model_class.config_class.from_dict(_without_code(settings))
    except Exception as error:  # each version of transformers has its own
        raise ValueError(f"{path}: no config of {model_class.__name__}: {error}") from error


def refuse_provided(path: Path, settings: Any) -> None:
    """Raise ValueError if a part of the model is known by its name only."""
    if not isinstance(settings, dict | list):
        return
    if isinstance(settings, dict) and not isinstance(settings.get("backbone_config"), dict):
        for key in _PROVIDED:
            if settings.get(key) is not None:
                raise ValueError(
                    f"{path}: {key} is {reprlib.repr(settings[key])}: models with a part that timm "
                    "or the Hub provides are not built"
                )
    for value in settings.values() if isinstance(settings, dict) else settings:
        refuse_provided(path, value)


def _without_code(settings: Any) -> Any:
    if isinstance(settings, list):
        return [_without_code(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        key: _without_code(value)
        for key, value in settings.items()
        if not any(key.lstrip("_").startswith(name) for name in _CODE)
    }


def build(path: Path, model_class: Any, config: Any, device: str = "cpu") -> Any:
    """Make a model whose parameters have no values yet.

    Parameters
    ----------
    path : Path
        Of the config, for messages.
    model_class, config
        As `read_config` returns them.
    device : {"cpu", "meta"}
    """
    try:
        with _empty_weights(config.dtype, device):
            return model_class(config)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # whatever a setting that cannot be leads to
        name = model_class.__name__
        raise ValueError(
            f"{path}: no {name} can be built: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def _empty_weights(dtype: Any, device: str) -> Iterator[None]:
    """Let models be made whose parameters have this dtype, and no values yet.

    What is to compute is made on the CPU, even where the meta device is the default: buffers that
    no file has, as the frequencies of rotary embeddings, are computed here. Memory of parameters
    that become sparse layers is never touched.
    """
    import torch
    from transformers.initialization import no_init_weights

    before = torch.get_default_dtype()
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        torch.set_default_dtype(dtype)
    try:
        with no_init_weights(), torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def check_is_like(model: Any, packed: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError if a model is not the one that its config describes.

    Another kind of layer with the same weights would be loaded as one of transformers, and compute
    something else.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    packed : mapping of str to CompressedTensor
        What would be stored of it.
    path : Path
        Of its config, as it would be stored.
    """
    twin = build(path, *read_config(path), device="meta")
    kind = type(model).__name__
    layers, expected_layers = _layer_types(model), _layer_types(twin)
    for name in [*layers, *expected_layers]:
        found, expected = layers.get(name), expected_layers.get(name)
        if found is not expected:
            raise ValueError(
                f"layer {name!r}: expected {_shown(expected)}, which {kind} has there with this "
                f"config, found {_shown(found)}: from_pretrained could not make it: use "
                "deepcomp.save, and restore into a model that your own code makes"
            )
    shapes = {name: tuple(tensor.shape) for name, tensor in packed.items()}
    expected_shapes = {name: tuple(tensor.shape) for name, tensor in twin.state_dict().items()}
    for name in [*shapes, *expected_shapes]:
        if shapes.get(name) != expected_shapes.get(name):
            raise ValueError(
                f"tensor {name!r}: expected {_shape(expected_shapes.get(name))}, as {kind} has "
                f"with this config, found {_shape(shapes.get(name))}: from_pretrained could not "
                "make it: use deepcomp.save, and restore into a model that your own code makes"
            )


def _layer_types(model: Any) -> dict[str, type]:
    """Return the class of each layer; parametrizations, as of shared weights, leave it as it is."""
    from torch.nn.utils.parametrize import type_before_parametrizations

    return {
        name: type_before_parametrizations(module)
        for name, module in model.named_modules(remove_duplicate=False)
        if "parametrizations" not in name.split(".")
    }


def _shown(kind: type | None) -> str:
    return "nothing" if kind is None else f"{kind.__module__}.{kind.__qualname__}"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"shape {list(shape)}"
