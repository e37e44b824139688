"""PyTorch checkpoints. No code in a file is run: they may hold tensors and plain data only."""

import re
import reprlib
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

KEYS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "params")
FILE_NAME = "pytorch_model.bin"  # as transformers called it
INDEX_NAME = "pytorch_model.bin.index.json"
_MAX_NESTED = 8
_OLDEST = (2, 10)  # in which weights_only=True keeps what it promises


def read_file(path: str, key: str | None = None) -> tuple[Mapping[str, Any], list[str]]:
    """Load the state_dict that is in a file, and list what else is there.

    Parameters
    ----------
    path : str
    key : str, optional
        Where to look; by default under `KEYS`.

    Returns
    -------
    state_dict : mapping of str to torch.Tensor
        On the CPU; mapped from the file, unless it was written by torch 1.5 or older. Tensors that
        share memory still do.
    left_out : list of str
        The keys of all else that the file has, as ``"optimizer"``, those inside with a dot.

    Raises
    ------
    ImportError
        If torch is not there, or is older than 2.10.
    ValueError
        If there is no state_dict, or something that is neither a tensor nor plain data.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path}: a PyTorch checkpoint needs torch: pip install 'deepcomp[torch]'",
            name=error.name,
        ) from error
    if torch.__version__ < _OLDEST:
        raise ImportError(
            f"{path}: a PyTorch checkpoint needs torch 2.10 or newer (found {torch.__version__}): "
            "older ones can be made to run code that is in a file (CVE-2025-32434, CVE-2026-24747)"
        )
    may_map = zipfile.is_zipfile(path) and not path.endswith(".safetensors")
    try:
        with (
            warnings.catch_warnings(),
            open(path, "rb") as file,
        ):  # what to open by its name, torch may take for safetensors
            source = path if may_map else file
            warnings.filterwarnings("ignore", ".*TorchScript archive")  # it is refused below
            loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=may_map)
    except OSError:
        raise
    except Exception as error:  # a damaged file can lead to any of Python's
        raise ValueError(
            f"{path}: expected tensors and plain data alone, as of torch.save(model.state_dict(), "
            f"path); found: {_reason(error)}"
        ) from None
    return _state_dict(path, loaded, key)


def _state_dict(path: str, loaded: Any, key: str | None) -> tuple[Mapping[str, Any], list[str]]:
    """Find the state_dict among the other things that trainers save; list these."""
    import torch

    left_out: list[str] = []
    prefix = ""
    if key is not None:
        keys = list(loaded) if isinstance(loaded, Mapping) else []
        if key not in keys:
            raise ValueError(f"{path}: expected the key {key!r}, found {_listed(keys)}")
        left_out, prefix = [str(other) for other in keys if other != key], f"{key}."
        loaded = loaded[key]
    for _ in range(_MAX_NESTED):
        if not isinstance(loaded, Mapping):
            raise ValueError(f"{path}: expected a state_dict, found a {type(loaded).__name__}")
        inner = [key for key in KEYS if isinstance(loaded.get(key), Mapping)]
        if not inner:
            break
        left_out += [f"{prefix}{other}" for other in loaded if other != inner[0]]
        loaded, prefix = loaded[inner[0]], f"{prefix}{inner[0]}."
    if loaded and not any(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ValueError(
            f"{path}: expected a state_dict, or one under {', '.join(KEYS)}; found a dict with "
            f"{_listed(list(loaded))} (key=..., or --key, says which of them it is)"
        )
    return loaded, left_out


def _listed(keys: list[Any]) -> str:
    return ", ".join(map(reprlib.repr, keys[:8])) + (", ..." if keys[8:] else "") or "nothing"


def _reason(error: Exception) -> str:
    """Say in a few words what torch says in many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    whole = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", str(error))
    if whole:
        return f"a pickled {whole[1]} (save model.state_dict() by itself)"
    if "TorchScript" in str(error):
        return "a TorchScript archive (save the state_dict() of what torch.jit.load returns)"
    telling = [line for line in lines if "nsupported" in line] or lines or [type(error).__name__]
    return telling[0].removeprefix("WeightsUnpickler error: ").partition(". ")[0]
