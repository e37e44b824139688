"""Models of transformers in folders: config, tokenizer, and ``model.dcz`` for the weights."""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .companions import copy_companions
from .compression import compress
from .folders import WEIGHTS_NAME, main_folder, packed_in, way_to_pack
from .hf_models import (
    build,
    check_is_like,
    find_class,
    import_transformers,
    read_config,
    refuse_provided,
)
from .model import CompressedModel
from .storage import load, save

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    import transformers

_ADAPTER_NAME = "adapter_config.json"  # of PEFT


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

    If the model was loaded from a folder, or from the Hub's cache, what else is in that folder is
    copied: tokenizer, chat template, ``modules.json`` and the other parts of sentence-transformers.
    A warning names what is not, as weights in other formats.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a class that transformers has, with the layers that this class has; not changed.
    folder : str or os.PathLike
        Made if it is not there. Files of the same names are replaced, each when it is whole,
        ``model.dcz`` last; others stay.
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
        If a setting is not possible, see `deepcomp.compress`; if the model is not what
        `from_pretrained` would make of its config, as it has other layers, adapters, or a part of
        timm; or if the folder has an index of shards. Nothing is written then.
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
    transformers = import_transformers()
    name = type(model).__name__
    if not isinstance(model, transformers.PreTrainedModel) or find_class(name) is not type(model):
        raise TypeError(f"expected a model of a class that transformers has, not a {name}")
    folder = Path(folder)
    refuse_provided(folder / "config.json", model.config.to_dict())  # nobody could load it
    if folder.is_dir() and packed_in(str(folder)) not in (None, str(folder / WEIGHTS_NAME)):
        raise ValueError(f"{folder}: has a model in several files: give another folder")
    packed = compress(model, bits, sparsity, threshold, std, scope, exclude)
    with tempfile.TemporaryDirectory(prefix="deepcomp-") as new:
        _write_settings(model, tokenizer, new)
        check_is_like(model, packed, Path(new, "config.json"))
        _copy_companions(model, str(folder), [*os.listdir(new), "adapter_*"])
        copy_companions(new, str(folder))
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
        As `save_pretrained` writes it, or `compress_checkpoint` (``dcz compress``) of a folder of
        transformers. Of a model of sentence-transformers this is the model alone, without pooling.
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
        the Hub to provide a part, as a backbone, by its name. If an adapter is beside the model.
    RuntimeError
        If names or shapes of the weights are not those of the class.
    DczError
        If ``model.dcz`` is damaged.
    ImportError
        If transformers is not installed: ``pip install 'deepcomp[transformers]'``.
    """
    transformers = import_transformers()
    from .nn.model import NOT_STRICT

    given = os.fspath(folder)
    folder = Path(main_folder(given))
    packed = load(_check_is_complete(folder), max_dense_bytes)
    model_class, config = read_config(folder / "config.json")
    config.name_or_path = given
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if dtype is not None and part is not None:
            part.dtype = dtype
    model = build(folder / "config.json", model_class, config)
    packed, buffers = _without_buffers(packed, model)
    packed = _with_ties(packed, getattr(model, "all_tied_weights_keys", {}))
    _tie(model, packed)
    _set_dtypes(model, packed, dtype)
    try:
        packed.restore(model, layers=layers, batch=batch, verbose=verbose)
    except RuntimeError as error:
        # there is no such argument here
        raise RuntimeError(str(error).replace(f"; {NOT_STRICT}", "")) from None
    for name, values in buffers.items():
        model.get_buffer(name).copy_(values)
    if model.can_generate() and (folder / "generation_config.json").is_file():
        found = transformers.GenerationConfig.from_pretrained(str(folder), local_files_only=True)
        model.generation_config = found
    return model.eval()


def _check_is_complete(folder: Path) -> str:
    """Return the path of the weights; raise an error if they or the config are not there."""
    if folder.is_dir() and (folder / _ADAPTER_NAME).is_file():
        raise ValueError(
            f"{folder / _ADAPTER_NAME}: an adapter of PEFT, which would not be applied: merge it "
            "into the weights (merge_and_unload) before they are saved"
        )
    found = packed_in(str(folder)) if folder.is_dir() else None
    hints = {"config.json": "", WEIGHTS_NAME: f" ({way_to_pack(str(folder))} makes it, exact)"}
    for name, hint in hints.items():
        if not (folder / name).is_file() and (name != WEIGHTS_NAME or found is None):
            raise FileNotFoundError(
                f"{folder / name}: not found; expected a folder of deepcomp.hf.save_pretrained"
                + hint
            )
    assert found is not None
    return found


def _write_settings(model: Any, tokenizer: Any, folder: str) -> None:
    """Write what transformers reads beside the weights."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _copy_companions(model: Any, target: str, without: list[str]) -> None:
    """Copy what is beside the config that a model was loaded with, and say what is not copied."""
    from .importers.checkpoint import files_of

    source = _folder_of(model)
    if source is None or os.path.realpath(source) == os.path.realpath(target):
        return
    try:
        weights = files_of(source)
    except (ValueError, OSError):  # it has none, or is no longer whole: the model has them
        weights = []
    left_out = copy_companions(source, target, weights, without)
    whole = os.path.dirname(os.path.abspath(source))
    if main_folder(whole) == os.path.abspath(source):
        left_out.append(f"the other parts in {whole} (dcz compress takes that folder with all)")
    if left_out:
        warnings.warn(f"{source}: not copied: {', '.join(left_out)}", stacklevel=3)


def _folder_of(model: Any) -> str | None:
    """Return the folder with the config that a model was loaded with, which the Hub's may be."""
    from huggingface_hub import try_to_load_from_cache

    name = model.name_or_path
    if not name:
        return None
    if os.path.isdir(name):
        source = main_folder(name)
        return source if os.path.isfile(os.path.join(source, "config.json")) else None
    try:
        revision = getattr(model.config, "_commit_hash", None)
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:  # no name that the Hub could have
        return None
    return os.path.dirname(found) if isinstance(found, str) else None


def _without_buffers(packed: CompressedModel, model: Any) -> tuple[CompressedModel, dict[str, Any]]:
    """Take out buffers that older versions of a model have saved, and this one makes by itself."""
    state = model.state_dict()
    names = [n for n, _ in model.named_buffers() if n in packed and n not in state]
    buffers = {name: packed[name].to_torch() for name in names}
    for name, values in buffers.items():
        expected, found = list(model.get_buffer(name).shape), list(values.shape)
        if expected != found:
            where = packed[name].origin
            raise RuntimeError(f"{where}: {name}: expected shape {expected}, found {found}")
    entries = {
        n: t.under(n) if packed.aliases.get(n, n) in buffers else packed.aliases.get(n, t)
        for n, t in packed.items()
        if n not in buffers
    }
    return CompressedModel(entries, packed.metadata), buffers


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


def _with_ties(packed: CompressedModel, ties: Mapping[str, str]) -> CompressedModel:
    """Add the names that the config ties to a name in the file."""
    entries: dict[str, Any] = {n: packed.aliases.get(n, tensor) for n, tensor in packed.items()}
    for target, source in ties.items():
        for name, other in ((target, source), (source, target)):
            if name not in packed and other in packed:
                entries.setdefault(name, packed.aliases.get(other, other))
    return CompressedModel(entries, packed.metadata)
