"""An educational decoder of .dcz files: dcz.md, whose sections it names, as a program."""

import json
import reprlib
import struct
import sys
import zlib
from math import prod
from typing import Any, NamedTuple

MAGIC, END_MAGIC, VERSIONS = b"\xdcDCZ\r\n\x1a\n", b"DCZ\n", [(1, 0), (1, 1)]  # section 3
MAX, STORED, MAX_DECODED = 2**63 - 1, 257, 2**30  # sections 4, 6.1; our own, in bytes
RAW, PACKED = {"name", "dtype", "shape", "layout"}, {"nbytes", "nnz"}  # section 4: must, may have
KEYS = {"alias": ({"name", "alias"}, set()), "raw": (RAW, {"crc32"})}
KEYS["dense"] = (RAW | PACKED, {"codebook", "block_numel", "kept_rows", "crc32"})
KEYS["sparse"] = (KEYS["dense"][0] | {"gap_bits"}, KEYS["dense"][1] | {"zero_signs"})
RANGES = {"nbytes": (0, MAX), "nnz": (0, MAX), "kept_rows": (1, MAX), "crc32": (0, 2**32 - 1)}
RANGES |= {"codebook": (0, 256), "gap_bits": (2, 8), "block_numel": (2**12, 2**20)}
ITEMSIZES = {"bool": 1, "uint8": 1, "int8": 1, "float8_e4m3fn": 1, "float8_e5m2": 1}
ITEMSIZES |= {"uint16": 2, "int16": 2, "float16": 2, "bfloat16": 2}
ITEMSIZES |= {"uint32": 4, "int32": 4, "float32": 4, "uint64": 8, "int64": 8, "float64": 8}


class InvalidFile(ValueError):
    """The bytes break a rule of dcz.md; the message says which one."""


class Tensor(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    patterns: bytes  # the entries, each little-endian, in row-major order
    alias: str | None


def check(holds: bool, rule: str, found: object) -> None:
    """Refuse the file if a rule, "SECTION: what it says", does not hold."""
    if not holds:
        raise InvalidFile(f"section {rule}; found {reprlib.repr(found)}")


def read_container(data: bytes) -> tuple[int, dict[str, str], list[dict]]:
    """Sections 2 and 3: head, pages, trailer; return `data_end` and the values of the index."""
    check(data.startswith(MAGIC), f"3: a file starts with the magic {MAGIC!r}", data[:8])
    check(len(data) >= 12, "3: a head has 12 bytes", len(data))
    version = struct.unpack("<HH", data[8:12])  # section 10: not higher than this program's own
    check(version in VERSIONS, "3: this program reads versions 1.0 and 1.1", version)
    check(data.endswith(END_MAGIC), "3: a file without the end magic was cut off", data[-4:])
    check(len(data) >= 36, "2: a file has a head and a trailer, 36 bytes", len(data))
    data_end, nbytes, raw_nbytes, crc = struct.unpack("<QIII", data[-24:-4])
    check(data_end >= 12, "3: data_end is at least 12", data_end)
    index_start = data_end - 4 * (-data_end // 65536)  # "as many checksums" as pages
    check(len(data) == index_start + nbytes + 24, "2: the size of the file", len(data))
    check(zlib.crc32(data[data_end:-8]) == crc, "3: the trailer's CRC-32", f"{crc:#x} instead")
    for page, (crc,) in enumerate(struct.iter_unpack("<I", data[data_end:index_start])):
        found = zlib.crc32(data[65536 * page : min(65536 * (page + 1), data_end)])
        check(found == crc, f"2: the CRC-32 of page {page} must be {crc:#x}", hex(found))
    check(raw_nbytes <= min(2**26, 128 * nbytes), "3: index_raw_nbytes: limits", raw_nbytes)
    return data_end, *read_index(data[index_start:-24], raw_nbytes)


def read_index(index: bytes, raw_nbytes: int) -> tuple[dict[str, str], list[dict]]:
    """Section 4: a zlib stream of JSON. "The JSON is *canonical*"; return its two values."""
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(index, raw_nbytes + 1)  # one more, to see whether there are more
        check(len(raw) == raw_nbytes, f"4: inflates to exactly {raw_nbytes} bytes", len(raw))
        index = json.loads(text := raw.decode("utf-8"))
        canonical = json.dumps(index, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    except (zlib.error, ValueError, RecursionError, MemoryError) as error:
        raise InvalidFile(f"section 4: index: a zlib stream of JSON in UTF-8; {error!s}") from None
    check(inflater.eof and not inflater.unused_data, "4: the stream ends with the index", raw)
    check(text == canonical, f"4: the JSON is canonical, {reprlib.repr(canonical)}", text)
    check(type(index) is dict and [*index] == ["metadata", "tensors"], "4: its two keys", index)
    metadata, tensors = index.values()
    check(type(metadata) is dict and {*map(type, metadata.values())} <= {str}, "4: texts", metadata)
    check(type(tensors) is list and {*map(type, tensors)} <= {dict}, "4: tensors: objects", tensors)
    return metadata, tensors


def check_keys(item: dict[str, Any], earlier: dict[str, Tensor]) -> None:
    """Section 4: check the keys and the name of an object of `tensors`, and its alias."""
    kind = "alias" if "alias" in item else item.get("layout")
    check(type(kind) is str and kind in KEYS, '4: layout is "raw", "dense" or "sparse"', kind)
    must, may = KEYS[kind]
    check(must <= item.keys() <= must | may, f"4: {kind}: keys {must}, maybe {may}", [*item])
    name, alias = item["name"], item.get("alias", "")
    check(type(name) is type(alias) is str, "4: name and alias are strings", (name, alias))
    check(name not in earlier, "4: name is different from all others", name)
    check(kind != "alias" or (alias in earlier and earlier[alias].alias is None), "4: alias", alias)


class SectionDecoder:
    def __init__(self, item: dict[str, Any]) -> None:
        """Decoder of the section of one tensor. Section 4: check the values of its object."""
        dtype, shape, layout = item["dtype"], item["shape"], item["layout"]
        check(type(dtype) is str and dtype in ITEMSIZES, "4: dtype is one of the table", dtype)
        check(type(shape) is list and len(shape) <= 32, "4: shape: an array of at most 32", shape)
        integers = [("a size in shape", size, 0, MAX) for size in shape]
        integers += [(key, item.get(key, low), low, high) for key, (low, high) in RANGES.items()]
        for what, value, low, high in integers:  # in Python, `true` is an integer: not here
            check(type(value) is int and low <= value <= high, f"4: {what}: {low} to {high}", value)
        self.itemsize, self.nnz, numel = ITEMSIZES[dtype], item.get("nnz", 0), prod(shape)
        self.raw_nbytes, self.kept_rows = numel * self.itemsize, item.get("kept_rows", 0)
        check(prod(n or 1 for n in shape) < 2**63 // self.itemsize, "4: shape: to 2^63 - 1", shape)
        self.n_rows = shape[0] if shape and self.kept_rows else 0  # section 7.5: in the bitmap
        check(self.kept_rows < (self.n_rows or 1), "4: kept_rows: to shape[0] - 1", self.kept_rows)
        self.numel = numel // (self.n_rows or 1) * (self.kept_rows or 1)  # of the kept rows
        self.nbytes, self.n_codebook = item.get("nbytes", self.raw_nbytes), item.get("codebook")
        self.block_numel, self.signs = item.get("block_numel", self.numel), item.get("zero_signs")
        holds = "zero_signs" not in item or (self.signs is True and "float" in dtype)
        check(holds, "4: zero_signs is true, and of a dtype float", (self.signs, dtype))
        zeros = [bytes(self.itemsize), bytes(self.itemsize - 1) + b"\x80"]  # section 7.4
        self.zeros = zeros[: 1 + bool(self.signs)]  # the patterns of what is *zero*
        self.raw, self.sparse, self.is_bool = layout == "raw", layout == "sparse", dtype == "bool"
        self.escape = 2 ** item["gap_bits"] - 1 if self.sparse else 0  # section 7.3
        if not self.raw:
            check(self.numel >= 1, f"4: {layout}: numel is at least 1", self.numel)
            check(self.nnz <= self.numel, f"4: nnz is at most {self.numel}, numel", self.nnz)
            most = min(2**20, self.numel - ("block_numel" in item))  # "less than `numel`"
            check(self.block_numel <= most, f"4: at most {most} in a block", self.block_numel)
            least = -(-self.n_rows // 8) - (-self.numel // self.block_numel) * (1 + self.sparse)
            check(self.nbytes >= max(least, -(-numel // 2**20)), "4: least of nbytes", self.nbytes)

    def decode(self, data: bytes) -> bytes:
        """Sections 5 and 7: the patterns of all entries."""
        self.data, self.position = data, 0
        if not self.raw:
            bitmap = self.take(-(-self.n_rows // 8), "the bitmap of rows")
            bits = [byte >> i & 1 for byte in bitmap for i in range(8)]
            check(not any(bits[self.n_rows :]), "7.5: the bits after the last row are 0", bitmap)
            check(sum(bits) == self.kept_rows, f"7.5: exactly {self.kept_rows} ones", bitmap)
            self.codebook = self.read_codebook()
            planes = [f"plane {i}" for i in range(self.itemsize * (self.n_codebook is None))]
            names = ["gaps"] * self.sparse + ["signs"] * bool(self.signs) + (planes or ["labels"])
            self.streams = [(name, *self.read_code(name)) for name in names]  # section 7 (2)
            data = b"".join([self.decode_block(*block) for block in self.read_directory()])
            check(self.position == len(self.data), "7: nothing is left over", self.position)
            size = self.raw_nbytes // (self.n_rows or 1)  # section 7.5: of a row, or of all
            rows = iter([data[i : i + size] for i in range(0, len(data), size)])
            data = b"".join([next(rows) if b else bytes(size) for b in bits[: self.n_rows] or [1]])
        check(not self.is_bool or max(data, default=0) <= 1, "5, 7.2: a bool is 0 or 1", data)
        return data

    def take(self, count: int, what: str) -> bytes:
        """Return the next ``count`` bytes of the section."""
        start, self.position = self.position, self.position + count
        check(self.position <= len(self.data), f"7: {what}: {count} bytes", len(self.data) - start)
        return self.data[start : self.position]

    def varint(self, what: str) -> int:
        """Section 1: groups of seven bits, "least significant group first, one group a byte"."""
        groups = [self.take(1, what)[0]]
        while groups[-1] >= 128:
            check(len(groups) < 9, f"1: a varint ({what}) has at most nine bytes", "more")
            groups.append(self.take(1, what)[0])
        check(groups[-1] or groups == [0], f"1: varint ({what}) as short as possible", groups)
        return sum(group % 128 << 7 * i for i, group in enumerate(groups))

    def read_codebook(self) -> list[bytes]:
        """Section 7 (1): "strictly increasing as unsigned integers"."""
        data = self.take((self.n_codebook or 0) * self.itemsize, "the codebook")
        codebook = [data[i : i + self.itemsize] for i in range(0, len(data), self.itemsize)]
        numbers = [int.from_bytes(pattern, "little") for pattern in codebook]
        check(numbers == sorted(set(numbers)), "7: the codebook is strictly increasing", numbers)
        check(not self.is_bool or max(numbers, default=0) <= 1, "7.2: a bool is 0 or 1", numbers)
        check(self.sparse or self.n_codebook != 0, "4: codebook is 1 or more if dense", 0)
        check(not (self.sparse and {*self.zeros} & {*codebook}), "7 (1), 7.4: a zero", codebook)
        return codebook

    def read_code(self, name: str) -> tuple[int, list[tuple[int, int]]]:
        """Section 6.1: m, and a symbol and its code length for each value of the next 12 bits."""
        m = self.varint(f"m of {name}")
        alphabet = {"gaps": self.escape + 1, "labels": self.n_codebook}.get(name, 256)
        stored = m == STORED and name not in ("gaps", "labels")
        check(m <= alphabet or stored, f"6.1: m of {name} is at most {alphabet}", m)
        if m == 1:  # the codeword has no bits
            symbol = self.take(1, f"the symbol of {name}")[0]
            check(symbol < alphabet, f"6.1: a symbol of {name} is less than {alphabet}", symbol)
            return m, [(symbol, 0)] * 4096
        if m == STORED:  # "each symbol is a byte": the codeword is its 8 bits
            return m, [(window % 256, 8) for window in range(4096)]
        return m, self.read_code_lengths(name, m) if m else []

    def read_code_lengths(self, name: str, m: int) -> list[tuple[int, int]]:
        """Section 6.1: "The code is canonical"; the table that `read_code` returns."""
        lengths = [half for byte in self.take(-(-m // 2), name) for half in (byte & 15, byte >> 4)]
        lengths, half = lengths[:m], lengths[m:]
        check(not any(half), f"6.1: {name}: the high half of the last byte is zero", half)
        check(max(lengths) <= 12, f"6.1: {name}: code lengths are 0 to 12", max(lengths))
        check(lengths[-1] > 0, f"6.1: {name}: the length of the last symbol is not 0", 0)
        check(sum(2.0**-n for n in lengths if n) == 1, f"6.1: {name}: Kraft's sum is 1", lengths)
        table, codeword, last = [(0, 0)] * 4096, -1, 0
        for length, symbol in sorted((n, symbol) for symbol, n in enumerate(lengths) if n):
            codeword, last = (codeword + 1) << (length - last), length  # the first one is 0
            low_bits = int(f"{codeword:0{length}b}"[::-1], 2)  # section 6.2: "first bit first"
            table[low_bits :: 1 << length] = [(symbol, length)] * (4096 >> length)
        return table

    def read_directory(self) -> list[tuple]:
        """Section 7.1: "Its directory entry is a sequence of varints"."""
        blocks, totals = [], [0] * len(self.streams)
        for start in range(0, self.numel, self.block_numel):
            n, n_kept = min(self.block_numel, self.numel - start), self.varint("n_kept")
            n_escapes = self.varint("n_escapes") if self.sparse else 0
            check(n_kept or not n_escapes, "7.1: if n_kept is 0, so is n_escapes", n_escapes)
            check(n_kept + n_escapes * self.escape <= n, f"7.1, 7.3: fit in a block of {n}", n_kept)
            counts = {"gaps": n_kept + n_escapes, "signs": -(-(n - n_kept) // 8)}
            bitstreams = []  # for each stream, of each of its bitstreams the symbols and the bytes
            for i, (name, m, _) in enumerate(self.streams):
                count = counts.get(name, n_kept if self.sparse else n)
                totals[i] += count
                bitstreams.append([(count, count if m == STORED else 0)])
                if 2 <= m <= 256:
                    q = -(-count // 4)  # section 6.2: from 4096 symbols on, "four *quarters*"
                    parts = [q, q, q, count - 3 * q] if count >= 4096 else [count] * (count > 0)
                    bitstreams[i] = [(part, self.varint(f"a size of {name}")) for part in parts]
            blocks.append((n, n_kept, n_escapes, bitstreams))
        check(sum(block[1] for block in blocks) == self.nnz, "7.1: their sum is nnz", self.nnz)
        for (name, m, _), n in zip(self.streams, totals, strict=True):
            check((m == 0) == (n == 0), f"6.1: {name}: m = 0 if and only if no symbols", (m, n))
        return blocks

    def read_bitstream(self, name: str, table: list, count: int, nbytes: int) -> bytes:
        """Section 6.2: "Bits fill a byte from the least significant bit" on."""
        data, symbols = self.take(nbytes, f"symbols of {name}"), bytearray()
        window = n_bits = position = 0  # the window's lowest bit is the next one
        for _ in range(count):
            while n_bits < 12 and position < len(data):
                window |= data[position] << n_bits
                n_bits, position = n_bits + 8, position + 1
            symbol, length = table[window & 4095]
            window, n_bits = window >> length, n_bits - length
            symbols.append(symbol)
        unread = n_bits + 8 * (len(data) - position)
        check(0 <= unread < 8, f"6.2: {name}: 0 to 7 bits are left after the last symbol", unread)
        check(window == 0, f"6.2: {name}: padding bits are zero", window)
        return bytes(symbols)

    def decode_block(self, n: int, n_kept: int, n_escapes: int, bitstreams: list) -> bytes:
        """Section 7.2: the patterns of a block."""
        symbols = []
        for (name, _, table), sizes in zip(self.streams, bitstreams, strict=True):
            symbols.append(b"".join([self.read_bitstream(name, table, *size) for size in sizes]))
        if self.n_codebook is not None:
            values = [self.codebook[label] for label in symbols[-1]]
        else:
            values = [bytes(planes) for planes in zip(*symbols[-self.itemsize :], strict=True)]
        if self.sparse:
            zeros, found = set(self.zeros).intersection(values), symbols[0].count(self.escape)
            check(not zeros, "7.2, 7.4: no kept entry of a sparse tensor is zero", zeros)
            check(found == n_escapes, f"7.3: exactly {n_escapes} symbols are escapes", found)
            return self.walk(n - n_kept, values, *symbols[: len(self.zeros)])
        check(n - values.count(self.zeros[0]) == n_kept, f"7.2: {n_kept} are not zero", values)
        return b"".join(values)

    def walk(self, n_zeros: int, values: list[bytes], gaps: bytes, signs: bytes = b"") -> bytes:
        """Sections 7.3 and 7.4: "Walking through a block from its first entry"."""
        check(gaps[-1:] != bytes([self.escape]), "7.3: the last symbol is no escape", gaps[-1:])
        check(sum(gaps) <= n_zeros, f"7.3: the walk stays in the block: {n_zeros} zeros", sum(gaps))
        bits = [byte >> i & 1 for byte in signs for i in range(8)]
        check(not any(bits[n_zeros:]), "7.4: the bits after the last sign are 0", bits[n_zeros:])
        zeros = [self.zeros[bit] for bit in bits[:n_zeros]] or self.zeros * n_zeros
        patterns, next_zero, next_value = [], iter(zeros), iter(values)
        for gap in gaps:
            patterns += [next(next_zero) for _ in range(gap)]
            patterns += [next(next_value) for _ in range(gap < self.escape)]
        return b"".join([*patterns, *next_zero])


def decode(data: bytes) -> tuple[dict[str, str], list[Tensor]]:
    """Decode a file; return its metadata and its tensors, or raise `InvalidFile`."""
    data_end, metadata, items = read_container(data)
    check(data[10] == any({"crc32", "kept_rows"} & {*i} for i in items), "10: least", data[10])
    tensors, start, n_decoded = {}, 12, 0  # section 4: "the first begins at offset 12"
    for item in items:
        name = item.get("name")
        try:
            check_keys(item, tensors)
            if "alias" in item:
                tensors[name] = tensors[item["alias"]]._replace(name=name, alias=item["alias"])
                continue
            section = SectionDecoder(item)
            end, n_decoded = start + section.nbytes, n_decoded + section.raw_nbytes
            check(end <= data_end, f"4: the last section ends at data_end, {data_end}", end)
            found = zlib.crc32(data[start:end]) if start < end else "no byte"
            check(item.get("crc32", found) == found, "4: crc32 is that of the section", found)
            check(n_decoded <= MAX_DECODED, "8: decoded bytes, this program's limit", n_decoded)
            start, patterns = end, section.decode(data[start:end])
            tensors[name] = Tensor(name, item["dtype"], tuple(item["shape"]), patterns, None)
        except InvalidFile as error:
            raise InvalidFile(f"tensor {reprlib.repr(name)}: {error}") from None
    check(start == data_end, f"4: the last section ends at data_end, {data_end}", start)
    return metadata, list(tensors.values())


if __name__ == "__main__":  # python dcz_decoder.py FILE: a line for each tensor
    with open(sys.argv[1], "rb") as file:
        for tensor in decode(file.read())[1]:
            print(ascii(tensor.name), tensor.dtype, list(tensor.shape), ascii(tensor.alias or ""))
