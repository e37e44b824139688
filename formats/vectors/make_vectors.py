"""Write the test vectors of the .dcz format: see README.md.

``python make_vectors.py`` writes ``valid/`` and ``invalid/``; ``python make_vectors.py --check``
also decodes them with ``../dcz_decoder.py`` and compares values, verdicts and reasons.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
from pathlib import Path

from invalid_vectors import Invalid, invalid_vectors
from valid_vectors import Valid, valid_vectors
from writer import ITEMSIZES, Parts, little

HERE = Path(__file__).resolve().parent


def expected_json(metadata: dict[str, str], tensors: list[Parts]) -> str:
    """What a decoder of a valid vector must find."""
    by_name: dict[str, Parts] = {}
    described = []
    for tensor in tensors:
        item = tensor.item
        tied = item.get("alias")
        target = tensor if tied is None else by_name[tied]
        by_name[item["name"]] = target
        dtype = target.item["dtype"]
        patterns = little(target.values, ITEMSIZES[dtype])
        entry = {"name": item["name"], "dtype": dtype, "shape": target.item["shape"], "alias": tied}
        if len(patterns) > 1024:
            entry["sha256"] = hashlib.sha256(patterns).hexdigest()
        else:
            entry["patterns"] = patterns.hex()
        described.append(entry)
    return json.dumps({"metadata": metadata, "tensors": described}, indent=1) + "\n"


def check(valid: Valid, invalid: Invalid) -> list[str]:
    """Decode the vectors with the educational decoder; return what is not as it must be."""
    spec = importlib.util.spec_from_file_location("dcz_decoder", HERE.parent / "dcz_decoder.py")
    assert spec is not None and spec.loader is not None
    decoder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(decoder)
    failures = []
    for name, (data, metadata, tensors) in valid.items():
        try:
            found_metadata, found = decoder.decode(data)
        except decoder.InvalidFile as error:
            failures.append(f"valid/{name}: {error}")
            continue
        expected = json.loads(expected_json(metadata, tensors))
        described = [
            {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "alias": t.alias}
            | {"patterns": t.patterns.hex(), "sha256": hashlib.sha256(t.patterns).hexdigest()}
            for t in found
        ]
        same = found_metadata == metadata and len(described) == len(expected["tensors"])
        pairs = list(zip(described, expected["tensors"], strict=False))
        if not same or not all(entry.items() <= values.items() for values, entry in pairs):
            failures.append(f"valid/{name}: other values")
    for name, (section, data) in invalid.items():
        try:
            decoder.decode(data)
            failures.append(f"invalid/{name}: accepted")
        except decoder.InvalidFile as error:
            named = re.search(r"section ([0-9.]+)( \(\d\))?(?:, ([0-9.]+))?:", str(error))
            if named is None or section not in named.groups():
                failures.append(f"invalid/{name}: not section {section}, but {error}")
            if "--verbose" in sys.argv:
                print(f"{name}: {error}")
    return failures


def write(valid: Valid, invalid: Invalid) -> None:
    """Write all files; remove vectors of other names."""
    files: dict[Path, bytes] = {}
    for name, (data, metadata, tensors) in valid.items():
        files[HERE / "valid" / f"{name}.dcz"] = data
        files[HERE / "valid" / f"{name}.json"] = expected_json(metadata, tensors).encode("ascii")
    for name, (_, data) in invalid.items():
        files[HERE / "invalid" / f"{name}.dcz"] = data
    for folder in (HERE / "valid", HERE / "invalid"):
        folder.mkdir(exist_ok=True)
        for path in sorted(folder.iterdir()):
            if path.suffix in (".dcz", ".json") and path not in files:
                path.unlink()
    for path, data in files.items():
        path.write_bytes(data)
    total = sum(len(data) for data in files.values())
    print(f"{len(valid)} valid and {len(invalid)} invalid vectors, {total} bytes")


def main() -> int:
    """Write the vectors; with --check, decode them as well."""
    valid, invalid = valid_vectors(), invalid_vectors()
    write(valid, invalid)
    failures = check(valid, invalid) if "--check" in sys.argv else []
    print("\n".join(failures) or "no failures", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
