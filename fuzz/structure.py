"""Change a .dcz file at one of its parts, and repair what guards the parts: sizes and checksums.

So that what lies behind is reached: a file changed at random would be refused by its checksums.
"""

import json
import struct
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from targets import Whatever, with_nnz

from deepcomp.container import END_MAGIC, HEAD, PAGE, TRAILER
from deepcomp.errors import DczError
from deepcomp.index import entry_from_json
from deepcomp.records import ITEMSIZE
from deepcomp.sections import Code, encode_varint, read_section

NUMBERS = (0, 1, 2, 3, 7, 8, 255, 256, 257, 4095, 4096, 4097, 1 << 16, (1 << 20) - 1, 1 << 20,
           (1 << 20) + 1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, -1, 1.0, True, None,
           "1")  # fmt: skip
KEYS = ("name", "alias", "dtype", "shape", "layout", "nbytes", "nnz", "codebook", "gap_bits",
        "block_numel", "zero_signs", "crc32", "kept_rows")  # fmt: skip


@dataclass
class Contents:
    """A file taken apart: its head, the index, and the section of each object of the index."""

    head: bytes
    index: dict
    sections: list[bytes]

    def to_bytes(self):
        """Put it together again."""
        data = self.head + b"".join(self.sections)
        pages = [zlib.crc32(data[i : i + PAGE]) for i in range(0, len(data), PAGE)]
        raw = canonical(self.index)
        deflated = zlib.compress(raw, 1)
        end = struct.pack(f"<{len(pages)}I", *pages) + deflated
        end += TRAILER.pack(len(data), len(deflated), len(raw), 0, b"")[:-8]
        return data + end + struct.pack("<I", zlib.crc32(end)) + END_MAGIC


def canonical(value):
    """Write JSON as section 4 of dcz.md wants it."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


@lru_cache(256)
def take_apart(data):
    """Return the contents of a file as bytes that `unpacked` reads, or None."""
    try:
        data_end, index_nbytes, *_ = TRAILER.unpack(data[-TRAILER.size :])
        start = data_end + 4 * -(-data_end // PAGE)
        index = json.loads(zlib.decompress(data[start : start + index_nbytes]))
        sections, offset = [], HEAD.size
        for item in index["tensors"]:
            nbytes = _section_nbytes(item)
            sections.append(data[offset : min(offset + nbytes, data_end)])
            offset += nbytes
        return data[: HEAD.size], json.dumps(index), tuple(sections)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, zlib.error,
            RecursionError):  # fmt: skip
        return None


def _section_nbytes(item):
    if "alias" in item:
        return 0
    if item["layout"] != "raw":
        return max(0, int(item["nbytes"]))
    nbytes = ITEMSIZE[item["dtype"]]
    for extent in item["shape"]:
        nbytes *= max(0, int(extent))
    return nbytes


def mutate(data, max_size, seed, mutate_bytes):
    """Return another file.

    Parameters
    ----------
    data : bytes
    max_size, seed : int
    mutate_bytes : callable
        libFuzzer's own mutation: (bytes, most bytes) -> bytes.
    """
    random = Random(seed)
    parts = take_apart(data)
    if parts is None or random.random() < 0.02:
        return mutate_bytes(data, max_size)
    contents = Contents(parts[0], json.loads(parts[1]), list(parts[2]))
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if not contents.index["tensors"]:
            _mutate_metadata(contents, random)
        elif random.random() < 0.3:
            _mutate_index(contents, random)
        else:
            _mutate_section(contents, random, mutate_bytes)
    if random.random() < 0.9:
        _resize_raw(contents)
    if random.random() < 0.95:
        _repair_checksums(contents)
    out = contents.to_bytes()
    return out if len(out) <= max_size else data[:max_size]


def _resize_raw(contents):
    """Give raw tensors as many bytes as their shapes say."""
    for i, item in enumerate(contents.index["tensors"]):
        if item.get("layout") == "raw":
            try:
                nbytes = min(_section_nbytes(item), 4096)
            except (KeyError, TypeError, ValueError):
                continue
            contents.sections[i] = contents.sections[i][:nbytes].ljust(nbytes, b"\1")


def _repair_checksums(contents):
    """Put the checksums of sections right, and the version to what they need."""
    items = contents.index["tensors"]
    for item, section in zip(items, contents.sections, strict=True):
        if type(item.get("crc32")) is int:
            item["crc32"] = zlib.crc32(section)
    is_1_1 = any({"crc32", "kept_rows"} & item.keys() for item in items)
    contents.head = contents.head[:-2] + struct.pack("<H", is_1_1)


# --- the index ---


def _mutate_index(contents, random):
    tensors = contents.index["tensors"]
    i = random.randrange(len(tensors))
    item = tensors[i]
    action = random.randrange(10)
    if action == 0:
        _mutate_metadata(contents, random)
    elif action == 1 and len(tensors) < 8:  # again, under another name
        tensors.append({**item, "name": f"{item.get('name')}{random.randrange(9)}"})
        contents.sections.append(contents.sections[i])
    elif action == 2:
        del tensors[i], contents.sections[i]
    elif action == 3:
        tensors[i] = {
            "name": f"tied{random.randrange(9)}",
            "alias": random.choice(tensors).get("name"),
        }
        contents.sections[i] = b""
    elif action == 4 and item:
        item.pop(random.choice(list(item)))
    elif action == 5:
        item[random.choice(KEYS)] = random.choice(NUMBERS)
    elif action == 6:
        item["dtype"] = random.choice(list(ITEMSIZE))
    elif action == 7:
        item["layout"] = random.choice(("raw", "dense", "sparse"))
    elif action == 8 and isinstance(item.get("shape"), list):
        _mutate_shape(item["shape"], random)
    else:
        _mutate_number(item, random)


def _mutate_metadata(contents, random):
    value = random.choice(("", 'é\u0001"\\', "x" * 40))
    if random.random() < 0.2:
        value = random.choice((1, None, [], "\ud800"))
    contents.index["metadata"] = {random.choice(("", "a", "\n")): value}


def _mutate_shape(shape, random):
    action = random.randrange(4)
    if action == 0 or not shape:
        shape.insert(random.randrange(len(shape) + 1), random.choice((0, 1, 2, 1 << 40)))
    elif action == 1:  # as many entries in other dimensions
        total = 1
        for extent in shape:
            total *= extent if type(extent) is int else 1
        divisors = [d for d in range(1, 20) if total % d == 0] or [1]
        a, b = random.choice(divisors), random.choice(divisors)
        shape[:] = (
            [a, total // a]
            if random.random() < 0.5 or total % (a * b)
            else [a, b, total // (a * b), 1]
        )
    else:
        k = random.randrange(len(shape))
        shape[k] = random.choice((shape[k] + 1, max(0, shape[k] - 1), random.choice(NUMBERS[:20])))


def _mutate_number(item, random):
    keys = [key for key, value in item.items() if type(value) is int]
    if not keys:
        return
    key = random.choice(keys)
    item[key] = random.choice(
        (item[key] + 1, item[key] - 1, item[key] * 2, item[key] // 2, random.choice(NUMBERS))
    )
    if key == "block_numel" and random.random() < 0.3:
        del item[key]


# --- a section ---


def _mutate_section(contents, random, mutate_bytes):
    coded = [i for i, s in enumerate(contents.sections) if s]
    if not coded:
        _mutate_index(contents, random)
        return
    i = random.choice(coded)
    item, section = contents.index["tensors"][i], contents.sections[i]
    try:
        record = entry_from_json(item, {})
        parts = read_section(replace(record, nnz=Whatever()), section)
    except (DczError, KeyError, TypeError, AttributeError, IndexError, ValueError):
        record = parts = None
    if parts is None or random.random() < 0.15:
        section = mutate_bytes(section, 2 * len(section) + 8)
    else:
        section = _mutate_parts(record, item, parts, section, random, mutate_bytes)
    contents.sections[i] = section
    if "nbytes" in item and random.random() < 0.97:
        item["nbytes"] = len(section)
    if record is not None and random.random() < 0.95:
        try:
            record = replace(record, section_nbytes=len(section), codebook=item.get("codebook"))
            item["nnz"] = with_nnz(record, memoryview(section)).nnz
        except DczError:
            pass


def _mutate_parts(record, item, parts, section, random, mutate_bytes):
    bitmap, section = section[: parts.bitmap_nbytes], section[parts.bitmap_nbytes :]
    if bitmap and random.random() < 0.1:
        return _mutate_bitmap(bitmap, item, random) + section
    codebook = section[: parts.codebook_nbytes]
    codes = list(parts.codes)
    blocks = [_block_parts(record, parts, block, section) for block in parts.blocks]
    action = random.randrange(9)
    if action == 0 and codebook:
        codebook = _mutate_codebook(codebook, record.itemsize, random)
    elif action == 8 and codebook:  # an entry less or more, but the same labels
        if random.random() < 0.7:
            codebook = codebook[: -record.itemsize]
        else:
            codebook += b"\xff" * record.itemsize
        item["codebook"] = len(codebook) // record.itemsize
    elif action in (1, 2):
        k = random.randrange(len(codes))
        codes[k] = _mutate_code(codes[k], random)
    elif action in (3, 4):
        numbers = random.choice(blocks)[0]
        k = random.randrange(len(numbers))
        numbers[k] = max(0, numbers[k] + random.choice((-2, -1, 1, 2, 100)))
    else:
        _mutate_payload(random.choice(blocks)[1], random, mutate_bytes)
    directory, payload = b"", b""
    for numbers, pieces in blocks:
        sizes = [size for size, _ in pieces if size is not None]
        directory += b"".join(map(encode_varint, [*numbers, *sizes]))
        payload += b"".join(piece for _, piece in pieces)
    if random.random() < 0.01:  # a varint longer than it must be
        directory = directory[:-1] + bytes([directory[-1] | 0x80, 0])
    return bitmap + codebook + b"".join(code.to_bytes() for code in codes) + directory + payload


def _block_parts(record, parts, block, section):
    """Return the first numbers of a directory entry, and [size in the directory or None, bytes]
    for each piece of the block's payload.
    """
    offset, pieces = block.offset, []
    for code, sizes in zip(parts.codes, block.sizes, strict=True):
        for size in sizes:
            piece = bytes(section[offset : offset + size])
            pieces.append([size if code.is_huffman else None, piece])
            offset += size
    numbers = [block.n_kept, block.n_escapes]
    return (numbers if record.layout == "sparse" else numbers[:1]), pieces


def _mutate_bitmap(bitmap, item, random):
    """Keep another row; mostly the number of kept ones follows, or another row goes."""
    bits = int.from_bytes(bitmap, "little")
    n_bits = 8 * len(bitmap) if random.random() < 0.1 else item["shape"][0]
    action = random.randrange(10)
    for _ in range(2 if action < 7 else 1):
        bits ^= 1 << random.randrange(n_bits)
    if action == 8:
        item["kept_rows"] = bits.bit_count()
    return bits.to_bytes(len(bitmap), "little")


def _mutate_codebook(codebook, itemsize, random):
    entries = [codebook[i : i + itemsize] for i in range(0, len(codebook), itemsize)]
    k = random.randrange(len(entries))
    value = int.from_bytes(entries[k], "little")
    value = random.choice((value + 1, value - 1, value ^ 1 << random.randrange(8 * itemsize), 0))
    entries[k] = (value % (1 << 8 * itemsize)).to_bytes(itemsize, "little")
    return b"".join(sorted(entries, key=lambda e: e[::-1]) if random.random() < 0.9 else entries)


def _mutate_code(code, random):
    if not code.is_huffman:
        if random.random() < 0.5:
            return replace(code, symbol=random.choice((0, 1, code.symbol ^ 1, 3, 255)))
        return Code(2, b"\1\1") if random.random() < 0.5 else Code(random.choice((0, 1, 257)))
    lengths = bytearray(code.code_lengths)
    action = random.randrange(5)
    a, b = random.randrange(len(lengths)), random.randrange(len(lengths))
    if action == 0:
        lengths[a] = random.randrange(16)
    elif action == 1:  # one codeword becomes two
        unused = [s for s in range(len(lengths)) if not lengths[s]]
        if lengths[a] and lengths[a] < 15:
            lengths[a] += 1
            if unused:
                lengths[random.choice(unused)] = lengths[a]
            else:
                lengths.append(lengths[a])
    elif action == 2:
        return Code(random.choice((0, 1, 257)), symbol=lengths[0])
    else:
        lengths[a], lengths[b] = lengths[b], lengths[a]
    return Code(len(lengths), bytes(lengths)) if len(lengths) > 1 else code


def _mutate_payload(pieces, random, mutate_bytes):
    if not pieces:
        return
    changed = random.choice(pieces)
    piece = bytearray(changed[1])
    action = random.randrange(6)
    if action < 3 and piece:  # with codewords of one length: another symbol
        for _ in range(random.choice((1, 1, 2, 8))):
            piece[random.randrange(len(piece))] ^= 1 << random.randrange(8)
    elif action == 3:
        piece = bytearray(mutate_bytes(bytes(piece) or b"\0", len(piece) + 8))
    elif action == 4 and piece:
        del piece[-1]
    else:
        piece.append(random.choice((0, 0, 255)))
    changed[1] = bytes(piece)
    if changed[0] is not None and random.random() < 0.9:
        changed[0] = len(piece)
