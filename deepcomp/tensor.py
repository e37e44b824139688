"""One compressed tensor: what is known about it, and ways to decode it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .errors import DczError
from .losses import suffix
from .records import TensorRecord
from .sections import Section, read_section

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from .csr import CSR
    from .decode import Patterns
    from .kept_rows import AnyDecoder
    from .losses import Loss

Fetch = Callable[..., memoryview]
_T = TypeVar("_T")


def view(data: bytes, *part: int) -> memoryview:
    """Return bytes as what is fetched, whatever part of them will be used."""
    return memoryview(data)


class CompressedTensor:
    """A tensor in its encoded form; decoding happens when it is asked for.

    Not made by users: it is what a `CompressedModel` holds.

    Attributes
    ----------
    record : TensorRecord
        Its description in the index of the file.
    origin : str
        The name of the file, for messages; empty if it is of none.
    loss : Loss or None
        What it lost when it was compressed; None if it was loaded: no file says it.
    """

    def __init__(
        self, record: TensorRecord, fetch: Fetch, origin: str = "", loss: Loss | None = None
    ) -> None:
        self.record = record
        self._fetch = fetch  # as Reader.section: with two offsets, only what is between them counts
        self.origin = origin
        self.loss = loss
        self._made: AnyDecoder | None = None

    @property
    def name(self) -> str:
        """The state_dict key."""
        return self.record.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense tensor."""
        return self.record.shape

    @property
    def dtype(self) -> str:
        """Name of the dtype, as ``"float32"``."""
        return self.record.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's section in the file; the index is not counted."""
        return self.record.section_nbytes

    @property
    def density(self) -> float | None:
        """Fraction of entries that are kept, 0 to 1; None where it is not recorded (raw)."""
        return None if self.record.nnz is None else self.record.nnz / self.record.numel

    @property
    def relative_error(self) -> float | None:
        """Norm of what compressing changed over that of the weights; None if it was loaded."""
        return None if self.loss is None else self.loss.relative_error

    def __repr__(self) -> str:
        r = self.record
        kept = "" if self.density is None else f", {100 * self.density:.1f} % kept"
        return (
            f"<CompressedTensor {r.name!r} {r.dtype} {list(r.shape)}, {r.layout}{kept}, "
            f"{r.section_nbytes} of {r.dense_nbytes} bytes{suffix(self.relative_error)}>"
        )

    def section(self) -> memoryview:
        """Return the encoded bytes, after checking them, or the pages of the file they are on.

        They are a view of the mapped file: to be used soon, or copied. From a URL or an open file
        they are fetched when they are first asked for, and then kept.

        Returns
        -------
        memoryview of bytes, shape (nbytes,)

        Raises
        ------
        DczError
            If a page is damaged, or the file has become shorter.
        """
        return self._fetch()

    def parts(self) -> Section | None:
        """Return where the bytes of each stream are; None for a raw tensor.

        Raises
        ------
        DczError
            If the section breaks a rule.
        """
        if self.record.layout == "raw":
            return None
        return self._named(lambda: read_section(self.record, self.section()))

    def check(self) -> None:
        """Check the tensor's pages and the structure of its section, without decoding it.

        Raises
        ------
        DczError
            If something is wrong.
        """
        _ = self._decoder

    def verify(self) -> None:
        """Decode the whole tensor, block by block, and throw the result away.

        A section that has a checksum of its own, besides those of its pages, is checked against it.

        Raises
        ------
        DczError
            If something is wrong.
        """
        self._named(self._verify)

    def _verify(self) -> None:
        expected = self.record.crc32
        if expected is not None and (found := zlib.crc32(self.section())) != expected:
            raise DczError(
                f"the section is damaged: expected CRC-32 {expected:08x}, found {found:08x}"
            )
        self._decoder.verify()

    @property
    def _decoder(self) -> AnyDecoder:
        """The decoder, made once; the section is asked for each time, as it may have been cut."""
        from .kept_rows import decoder_of

        data = self.section()
        decoder = self._made
        if decoder is None:
            decoder = self._made = self._named(lambda: decoder_of(self.record, data))
        return decoder

    def decode_with(self, action: Callable[[AnyDecoder], _T]) -> _T:
        """Return what `action` makes of the decoder; errors get the tensor's name."""
        return cast(_T, self._named(lambda: action(self._decoder)))

    def _repr_html_(self) -> str:
        from .notebook import tensor_html

        return tensor_html(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the encoded bytes; a copy does not need the file."""
        fetch = partial(view, bytes(self.section()))
        return CompressedTensor, (self.record, fetch, self.origin, self.loss)

    def under(self, name: str) -> CompressedTensor:
        """Return the same tensor under another name, or itself if it has that name."""
        if name == self.name:
            return self
        record = replace(self.record, name=name)
        return CompressedTensor(record, self._fetch, self.origin, self.loss)

    def forget(self) -> None:
        """Forget what was made of the section for decoding and computing."""
        self._made = None
        self.__dict__.pop("_matrix", None)

    @cached_property
    def _matrix(self) -> Any:
        from .entries import matrix_shape
        from .layouts import decode_windows
        from .multiply import CompressedMatrix

        shape = matrix_shape(self.shape)
        windows = partial(self.decode_with, decode_windows)
        return self._named(lambda: CompressedMatrix(self._entries, shape, windows))

    def _entries(self) -> Any:
        from .entries import decode_entries

        return self._named(lambda: decode_entries(self._decoder))

    def _named(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except DczError as error:
            if repr(self.name) in str(error):
                raise
            where = f"{self.origin}: " if self.origin else ""
            raise DczError(f"{where}tensor {self.name!r}: {error}") from None

    def decode_patterns(self, out: Patterns | None = None, n_threads: int = 1) -> Patterns:
        """Decode into bit patterns.

        Parameters
        ----------
        out : ndarray of unsigned integers of the entries' size, shape (numel,), optional
            Contiguous; filled and returned.
        n_threads : int, default 1

        Returns
        -------
        ndarray of uint8, uint16, uint32 or uint64, shape (numel,)

        Raises
        ------
        DczError
            If the section breaks a rule.
        ValueError
            If `out` does not fit.
        """
        import numpy as np

        if isinstance(n_threads, bool) or not isinstance(n_threads, int) or n_threads < 1:
            raise ValueError(f"n_threads is {n_threads!r}: expected an integer of 1 or more")
        decoder = self._decoder
        if out is None:
            out = np.empty(self.record.numel, decoder.dtype)
        self._named(lambda: decoder.decode_into(out, n_threads))
        return out

    def decode_blocks(self) -> Iterator[Patterns]:
        """Decode into bit patterns, block by block.

        Yields
        ------
        ndarray of uint8, uint16, uint32 or uint64, shape (n,)
            The next entries in row-major order, 2**20 at most.

        Raises
        ------
        DczError
            If the section breaks a rule.
        """
        blocks = self._decoder.blocks()
        while (entries := self._named(lambda: next(blocks, None))) is not None:
            yield entries

    def to_dense(self, out: NDArray[Any] | None = None, n_threads: int = 1) -> NDArray[Any]:
        """Decode into a dense NumPy array.

        Parameters
        ----------
        out : ndarray, optional
            Of the tensor's shape and dtype, C-contiguous and writable; filled and returned. Memory
            that was used before is faster than new memory.
        n_threads : int, default 1
            Blocks of up to a million entries are shared out among so many threads.

        Returns
        -------
        ndarray
            Of the tensor's shape and dtype. NumPy has no bfloat16 and no float8: these come as
            float32 with the same values (bfloat16), and as uint8 bit patterns (float8).

        Raises
        ------
        DczError
            If the file is damaged or breaks a rule of ``formats/dcz.md``.
        ValueError
            If `out` does not fit.

        Examples
        --------
        >>> import deepcomp, numpy as np
        >>> packed = deepcomp.compress({"w": np.eye(3, dtype=np.float32)}, bits=2)
        >>> packed["w"].to_dense()[0]
        array([1., 0., 0.], dtype=float32)
        """
        import numpy as np

        from .values import check_out, numpy_dtype, to_values

        if out is not None:
            check_out(self.record, out)
        self.check()  # before memory is taken for what the file claims
        if self.dtype == "bfloat16":
            patterns = self.decode_patterns(None, n_threads)
            dense = to_values(patterns, self.dtype).reshape(self.shape)
            if out is None:
                return dense
            out[...] = dense
            return out
        if out is None:
            out = np.empty(self.shape, numpy_dtype(self.dtype))
        flat = out.reshape(-1).view(f"<u{self.record.itemsize}")
        self.decode_patterns(flat, n_threads)
        return out

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Decode the rows from `start` up to `stop`, and no block that holds none of them.

        A block holds up to 2**20 entries, however short a row is. Of a file behind a URL, or an
        open file, only the pages of these blocks are read, and those of the section's beginning,
        or the whole section where that is less.

        Parameters
        ----------
        start, stop : int
            ``0 <= start <= stop <= shape[0]``

        Returns
        -------
        ndarray, shape (stop - start, ...)
            ``to_dense()[start:stop]``, bit for bit; of the same dtype.

        Raises
        ------
        DczError
            If the file is damaged or breaks a rule of ``formats/dcz.md``.
        IndexError
            If there are no such rows.
        TypeError
            If `start` or `stop` is no integer.

        Examples
        --------
        >>> import deepcomp, numpy as np
        >>> packed = deepcomp.compress({"w": np.eye(5000, dtype=np.float32)}, bits=2)
        >>> packed["w"].rows(4000, 4002)[:, 4000:4002]
        array([[1., 0.],
               [0., 1.]], dtype=float32)
        """
        from .slices import decode_fetched, decoder_of_head, row_entries
        from .values import to_values

        first, last = row_entries(self.record, start, stop)
        make = partial(decoder_of_head, self.record, self._fetch)
        decoder = self._made = self._made or self._named(make)
        patterns = self._named(lambda: decode_fetched(decoder, self._fetch, first, last))
        return to_values(patterns, self.dtype).reshape(int(stop) - int(start), *self.shape[1:])

    def to_csr(self) -> CSR:
        """Decode into compressed sparse rows, without a dense array in between.

        Returns
        -------
        CSR
            Of a matrix with ``shape[0]`` rows (one row for a tensor without dimensions), all
            other dimensions flattened; ``scipy.sparse.csr_array(csr[:3], csr.shape)`` takes it.

        Raises
        ------
        DczError
            If the file is damaged or breaks a rule of ``formats/dcz.md``.

        Examples
        --------
        >>> import deepcomp, numpy as np
        >>> packed = deepcomp.compress({"w": np.eye(3, dtype=np.float32)}, bits=2)
        >>> packed["w"].to_csr().indices
        array([0, 1, 2])
        """
        from .csr import to_csr

        return to_csr(self)

    def to_torch(self, layout: torch.layout | None = None) -> torch.Tensor:
        """Decode into a torch tensor on the CPU.

        Parameters
        ----------
        layout : torch.layout, optional
            ``torch.strided`` (default) or ``torch.sparse_csr``; the latter is a matrix with
            ``shape[0]`` rows, as in `to_csr`.

        Returns
        -------
        torch.Tensor
            Of the tensor's own dtype, bfloat16 included.

        Raises
        ------
        DczError
            If the file is damaged or breaks a rule of ``formats/dcz.md``.
        ValueError
            If the layout is another one.
        """
        from .nn.convert import to_torch

        return to_torch(self, layout)
