"""The kernels in use: native, or their NumPy twins.

Two environment variables are read once, when this module is imported:

``DEEPCOMP_KERNELS``
    ``native`` (default) or ``reference``, the NumPy twins of ``_reference*.py``.
``DEEPCOMP_ISA``
    ``portable``, ``avx2`` or ``avx512``: the instruction set of the native kernels. By default
    the best one that this machine has.
"""

import os
from typing import TYPE_CHECKING, Any

from ._native import MISSING

ISA_NAMES = ("portable", "avx2", "avx512")

_choice = os.environ.get("DEEPCOMP_KERNELS", "native")
if _choice not in ("native", "reference"):
    raise ImportError(f"DEEPCOMP_KERNELS must be 'native' or 'reference', not {_choice!r}")

try:
    from ._native import cpu as _cpu
except ImportError as error:
    raise ImportError(MISSING) from error


def _chosen_isa() -> int:
    best = int(_cpu.best_isa())
    name = os.environ.get("DEEPCOMP_ISA")
    if not name:
        return best
    if name not in ISA_NAMES:
        raise ImportError(f"DEEPCOMP_ISA must be one of {', '.join(ISA_NAMES)}, not {name!r}")
    if ISA_NAMES.index(name) > best:
        raise ImportError(
            f"DEEPCOMP_ISA={name} is not possible: this machine has {ISA_NAMES[best]} at most"
        )
    return ISA_NAMES.index(name)


ISA = _chosen_isa()
address = _cpu.address

if _choice == "native":
    from ._native.convolve import *  # noqa: F403
    from ._native.huffman import (
        count_symbols_into,
        decode_into,
        decode_table_into,
        encode_into,
        package_merge_into,
    )
    from ._native.kmeans import *  # noqa: F403
    from ._native.matmul import *  # noqa: F403
    from ._native.prune import *  # noqa: F403
    from ._native.relindex import *  # noqa: F403
    from ._native.squares import *  # noqa: F403
else:
    from ._reference import *  # noqa: F403
    from ._reference_kmeans import *  # noqa: F403
    from ._reference_matmul import *  # noqa: F403

if TYPE_CHECKING:  # compiled modules have no types

    def __getattr__(name: str) -> Any: ...


def build_info() -> dict[str, Any]:
    """Return which kernels are in use.

    Returns
    -------
    dict
        ``kernels`` ("native" or "reference"), ``isa`` (name) and ``debug`` (bounds checked).

    Examples
    --------
    >>> sorted(build_info())
    ['debug', 'isa', 'kernels']
    """
    return {"kernels": _choice, "isa": ISA_NAMES[ISA], "debug": bool(_cpu.is_debug_build())}
