"""``.dcz`` files, and models in several of them, to be compressed again."""

from ..arrays import Source
from ..storage import load


def read_file(path: str) -> tuple[dict[str, Source], dict[str, str]]:
    """List the tensors of a compressed model; one is decoded when it is fetched.

    Parameters
    ----------
    path : str
        Of a file, or of an index of shards.

    Returns
    -------
    tensors : dict of str to Source
        In the order of the file; tied weights have the identity of the first.
    metadata : dict of str to str

    Raises
    ------
    DczError
        If the file is damaged: at once, or when a tensor is fetched.
    """
    packed = load(path)
    tensors = {
        name: Source(name, t.dtype, t.shape, (path, t.name), t.decode_patterns)
        for name, t in packed.items()
    }
    return tensors, packed.metadata
