"""Models of transformers in folders: config, tokenizer, and ``model.dcz`` for the weights."""

from __future__ import annotations

import copy
import json
import os
import reprlib
import shlex
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compression import compress
from .model import CompressedModel
from .storage import load, save

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    import transformers

WEIGHTS_NAME = "model.dcz"

# What a config may ask for that would run code of the folder or fetch it from elsewhere; models of
# transformers do without.
_CODE = ("attn_implementation", "experts_implementation", "auto_map", "custom_pipelines")

# What a config may have the Hub or timm provide by its name: timm takes URLs and pickles as well.
_PROVIDED = ("backbone", "backbone_kwargs", "use_timm_backbone", "architecture", "model_args")


def save_pretrained(
    model: transformers.PreTrainedModel,
    folder: str | os.PathLike[str],
    bits: int | Mapping[str, int] | None = 5,
    sparsity: float | Mapping[str, float] | None = None,
    threshold: float | Mapping[str, float] | None = None,
    std: float | Mapping[str, float] | None = None,
    scope: str = "layer",
    tokenizer: Any = None,
    exclude: str | Iterable[str] | None = None,
) -> CompressedModel:
    """Write a model of transformers into a folder, with ``model.dcz`` for its weights.

    Beside it are the files that transformers writes: ``config.json``, and for models that generate
    ``generation_config.json``. Tied weights, as of embeddings and the last layer, are stored once.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a class that transformers has; not changed.
    folder : str or os.PathLike
        Made if it is not there. Files of the same names are replaced, ``model.dcz`` last.
    bits, sparsity, threshold, std, scope, exclude
        As of `deepcomp.compress`; ``bits=None`` keeps every bit. Embeddings are weights as others
        are: ``exclude="*embed*"`` keeps them exact.
    tokenizer : optional
        Anything with a ``save_pretrained``, as tokenizers and processors of transformers have.

    Returns
    -------
    CompressedModel
        What ``model.dcz`` holds.

    Raises
    ------
    TypeError
        If `model` is of no class of transformers.
    ValueError
        If a setting is not possible, see `deepcomp.compress`, or the model has a part of timm,
        which `from_pretrained` refuses. Nothing is written then.
    ImportError
        If transformers is not installed: ``pip install 'deepcomp[transformers]'``.

    Examples
    --------
    >>> import deepcomp.hf, os, tempfile, torch, transformers
    >>> config = transformers.BertConfig(
    ...     vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
    ...     intermediate_size=64,
    ... )
    >>> model = transformers.BertForMaskedLM(config)
    >>> folder = tempfile.TemporaryDirectory()
    >>> packed = deepcomp.hf.save_pretrained(model, folder.name, bits=4, sparsity=0.8)
    >>> sorted(os.listdir(folder.name))
    ['config.json', 'model.dcz']
    >>> packed.aliases["cls.predictions.decoder.weight"]
    'bert.embeddings.word_embeddings.weight'
    >>> loaded = deepcomp.hf.from_pretrained(folder.name)
    >>> loaded(torch.tensor([[1, 2, 3]])).logits.shape
    torch.Size([1, 3, 50])
    >>> folder.cleanup()
    """
    transformers = _import_transformers()
    name = type(model).__name__
    if not isinstance(model, transformers.PreTrainedModel) or _find_class(name) is not type(model):
        raise TypeError(f"expected a model of a class that transformers has, not a {name}")
    _refuse_provided(Path(folder, "config.json"), model.config.to_dict())  # nobody could load it
    packed = compress(model, bits, sparsity, threshold, std, scope, exclude)
    config = copy.deepcopy(model.config)
    config.architectures = [name]
    config.dtype = str(model.dtype).removeprefix("torch.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    save(packed, folder / WEIGHTS_NAME)
    return packed


def from_pretrained(
    folder: str | os.PathLike[str],
    layers: str = "auto",
    batch: int = 1,
    dtype: torch.dtype | None = None,
    max_dense_bytes: int | None = None,
    verbose: bool = False,
) -> transformers.PreTrainedModel:
    """Build the model that a folder describes, with the weights of its ``model.dcz``.

    Nothing is fetched from elsewhere, and no code in the folder is run: the class is the one of
    transformers that the config names. How much memory and time it takes to build, a config of a
    stranger may choose. Weights are not initialised before they are read. What is
    tied in the file is tied in the model; so is what the config ties, where the file has only one
    of the two, as a file made from the safetensors of transformers has.

    Parameters
    ----------
    folder : str or os.PathLike
        As `save_pretrained` writes it.
    layers : {"auto", "sparse", "dense"}, default "auto"
        Which ``nn.Linear`` compute from the compressed weight, on the CPU; see
        `CompressedModel.restore`. Embeddings and ``Conv1D`` (GPT-2) stay dense; with "auto", so
        do layers of bfloat16 or float16.
    batch : int, default 1
        With "auto", the number of vectors (tokens of all sequences) that will come at a time.
    dtype : torch.dtype, optional
        Of all float parameters; by default each has its own of the file.
    max_dense_bytes : int, optional
        As of `deepcomp.load`, for files of strangers.
    verbose : bool, default False
        Whether to print what was chosen for each layer, and why.

    Returns
    -------
    transformers.PreTrainedModel
        In eval mode, on the CPU. If it has sparse layers, its own ``save_pretrained`` raises
        ValueError.

    Raises
    ------
    FileNotFoundError
        If the folder, ``config.json`` or ``model.dcz`` is not there.
    ValueError
        If ``config.json`` is not valid, names no class of transformers, or leaves it to timm or
        the Hub to provide a part, as a backbone, by its name.
    RuntimeError
        If names or shapes of the weights are not those of the class.
    DczError
        If ``model.dcz`` is damaged.
    ImportError
        If transformers is not installed: ``pip install 'deepcomp[transformers]'``.
    """
    transformers = _import_transformers()
    from .nn.model import NOT_STRICT

    folder = Path(folder)
    _check_is_complete(folder)
    model_class, config = _read_config(folder / "config.json")
    packed = load(folder / WEIGHTS_NAME, max_dense_bytes)
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if dtype is not None and part is not None:
            part.dtype = dtype
    model = _build(folder / "config.json", model_class, config)
    packed = _with_ties(packed, getattr(model, "all_tied_weights_keys", {}))
    _tie(model, packed)
    _set_dtypes(model, packed, dtype)
    try:
        packed.restore(model, layers=layers, batch=batch, verbose=verbose)
    except RuntimeError as error:
        # there is no such argument here
        raise RuntimeError(str(error).replace(f"; {NOT_STRICT}", "")) from None
    if model.can_generate() and (folder / "generation_config.json").is_file():
        found = transformers.GenerationConfig.from_pretrained(str(folder), local_files_only=True)
        model.generation_config = found
    return model.eval()


def _check_is_complete(folder: Path) -> None:
    """Raise FileNotFoundError if the config or the weights are not there."""
    given, made = (shlex.quote(str(path)) for path in (folder, folder / WEIGHTS_NAME))
    hints = {
        "config.json": "",
        WEIGHTS_NAME: f" (dcz compress {given} {made} --bits none makes it, exact)",
    }
    for name, hint in hints.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name}: not found; expected a folder of deepcomp.hf.save_pretrained"
                + hint
            )


def _import_transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"deepcomp.hf needs transformers: pip install 'deepcomp[transformers]' ({error})"
        ) from None
    return transformers


def _find_class(name: Any) -> Any:
    """Return the model class of transformers with this name; None if there is none."""
    transformers = _import_transformers()
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    is_whole = getattr(found, "config_class", None) is not None  # the abstract class has none
    return found if is_model and is_whole else None


def _read_config(path: Path) -> tuple[Any, Any]:
    """Return the class that a config names, and the config."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    architectures = settings.get("architectures") if isinstance(settings, dict) else None
    if not isinstance(architectures, list) or len(architectures) != 1:
        raise ValueError(f"{path}: architectures is {architectures!r}: expected a list of one name")
    model_class = _find_class(architectures[0])
    if model_class is None:
        raise ValueError(
            f"{path}: architectures is {architectures!r}: "
            f"transformers {_import_transformers().__version__} has no such model"
        )
    _refuse_provided(path, settings)
    try:
        return model_class, model_class.config_class.from_dict(_without_code(settings))
    except Exception as error:  # each version of transformers has its own
        raise ValueError(f"{path}: no config of {model_class.__name__}: {error}") from error


def _refuse_provided(path: Path, settings: Any) -> None:
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
        _refuse_provided(path, value)


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


def _build(path: Path, model_class: Any, config: Any) -> Any:
    try:
        with _empty_weights(config.dtype):
            return model_class(config)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # whatever a setting that cannot be leads to
        name = model_class.__name__
        raise ValueError(
            f"{path}: no {name} can be built: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def _empty_weights(dtype: Any) -> Iterator[None]:
    """Let models be made on the CPU whose parameters have this dtype, and no values yet.

    Not on the meta device, even where that is the default: buffers that no file has, as the
    frequencies of rotary embeddings, are computed here. Memory of parameters that become sparse
    layers is never touched.
    """
    import torch
    from transformers.initialization import no_init_weights

    before = torch.get_default_dtype()
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        torch.set_default_dtype(dtype)
    try:
        with no_init_weights(), torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)


def _with_ties(packed: CompressedModel, ties: Mapping[str, str]) -> CompressedModel:
    """Add the names that the config ties to a name in the file."""
    entries: dict[str, Any] = {n: packed.aliases.get(n, tensor) for n, tensor in packed.items()}
    for target, source in ties.items():
        for name, other in ((target, source), (source, target)):
            if name not in packed and other in packed:
                entries.setdefault(name, packed.aliases.get(other, other))
    return CompressedModel(entries, packed.metadata)


def _tie(model: Any, packed: CompressedModel) -> None:
    """Let tied names hold one parameter. Buffers are not tied, but filled one by one."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, first in packed.aliases.items():
        if name in parameters and first in parameters:
            module, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(module), attribute, parameters[first])


def _set_dtypes(model: Any, packed: CompressedModel, dtype: torch.dtype | None) -> None:
    """Give float tensors the dtypes of the file, or `dtype`; they have no values yet."""
    import torch

    from .nn.convert import DTYPES

    for name, target in model.state_dict(keep_vars=True).items():
        wanted = DTYPES.get(packed[name].dtype) if name in packed else None
        if wanted is None or not (wanted.is_floating_point and target.is_floating_point()):
            continue
        wanted = dtype or wanted
        if target.dtype != wanted:
            target.data = torch.empty_like(target, dtype=wanted)
