"""Draw the pictures of format.md: `python docs/pictures.py [FOLDER]`, by default docs/images.

They show the worked example of formats/dcz.md, section 9.
"""

import sys
from html import escape
from pathlib import Path

INK, FAINT, LINE = "#1f2328", "#6e7781", "#d0d7de"
COLOURS = ("#2f6fb0", "#c2571a")  # of the two shared values
TRAINED = (
    *(0.03, 0.52, -0.02, 0.05, 0.01, -0.04),
    *(0.02, -0.97, 0.06, -0.01, 0.04, 0.47),
    *(-0.05, 0.01, 0.51, 0.03, -0.02, -1.04),
)
KEPT = {1: 0, 7: 1, 11: 0, 14: 0, 17: 1}  # position: label
CODEBOOK = ("0.5", "-1")
# runs of zeros and a kept entry: symbols of the gaps, and their codewords
GAPS = (
    (1, "1", "111"),
    (5, "3 2", "10 0"),
    (3, "3 0", "10 110"),
    (2, "2", "0"),
    (2, "2", "0"),
)
CELL, LEFT = 36, 150


def text(x, y, content, size=13, colour=INK, anchor="middle", weight="normal"):
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(str(content))}</text>'
    )


def box(x, y, width, height, fill="#ffffff", line=LINE):
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" '
        f'stroke="{line}"/>'
    )


def picture(width, height, title, parts):
    """Return an SVG on a white ground, so that it can be read on a dark page too."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" font-family="system-ui, sans-serif">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def stages():
    """Draw what becomes of 18 weights, stage by stage."""
    parts = []
    names = ("trained", "pruned", "shared", "gaps", "in bits")
    rows = [24 + 62 * i for i in range(len(names))]
    for name, y in zip(names, rows):
        parts.append(text(LEFT - 14, y + 23, name, 14, anchor="end", weight="600"))
    for i, value in enumerate(TRAINED):
        x, label = LEFT + i * CELL, KEPT.get(i)
        parts += [box(x, y, CELL, CELL) for y in rows[:2]]
        parts.append(text(x + CELL / 2, rows[0] + 22, f"{value:g}", 11))
        colour = INK if label is not None else FAINT
        shown = f"{value:g}" if label is not None else "0"
        parts.append(text(x + CELL / 2, rows[1] + 22, shown, 11, colour))
        parts.append(box(x, rows[2], CELL, CELL, "#ffffff" if label is None else COLOURS[label]))
        if label is not None:
            parts.append(text(x + CELL / 2, rows[2] + 23, label, 14, "#ffffff", weight="600"))
    start = 0
    for zeros, symbols, bits in GAPS:
        x, width = LEFT + start * CELL, (zeros + 1) * CELL
        parts += [box(x + 1, y, width - 2, CELL, "#f6f8fa") for y in rows[3:]]
        parts.append(text(x + width / 2, rows[3] + 23, symbols, 14))
        parts.append(text(x + width / 2, rows[4] + 23, bits, 14))
        start += zeros + 1
    y = rows[-1] + 76
    parts.append(text(LEFT - 14, y, "codebook", 14, anchor="end", weight="600"))
    for label, value in enumerate(CODEBOOK):
        x = LEFT + label * 90
        parts.append(box(x, y - 17, 24, 24, COLOURS[label]))
        parts.append(text(x + 12, y, label, 14, "#ffffff", weight="600"))
        parts.append(text(x + 32, y, f"= {value}", 14, anchor="start"))
    note = "3 is the escape: three zeros and no kept weight"
    parts.append(text(LEFT + len(TRAINED) * CELL, y, note, 13, FAINT, "end"))
    title = "Eighteen weights: trained, pruned, shared, and as a stream of gaps"
    return picture(LEFT + len(TRAINED) * CELL + 24, y + 24, title, parts)


def blocks(y, widths, names, notes, fills=()):
    """Draw boxes side by side, with a note below each."""
    parts, x = [], 24
    for i, (width, name, note) in enumerate(zip(widths, names, notes)):
        parts.append(box(x, y, width, 44, fills[i] if fills else "#f6f8fa"))
        parts.append(text(x + width / 2, y + 27, name, 13, weight="600"))
        parts += [
            text(x + width / 2, y + 62 + 16 * row, line, 12, FAINT)
            for row, line in enumerate(note.split("\n"))
        ]
        x += width
    return parts


def layout():
    """Draw the parts of a file, and of a tensor in it."""
    parts = [text(24, 30, "A file", 15, anchor="start", weight="600")]
    parts += blocks(
        44,
        (90, 190, 150, 130, 150, 90),
        ("head", "tensor", "tensor ...", "checksums", "index", "trailer"),
        (
            "12 bytes:\nmagic, version",
            "a section for each,\none after the other",
            "",
            "CRC-32 of each\n64 KiB page",
            "JSON under zlib:\nnames, shapes, sizes",
            "24 bytes: where\nthe index is",
        ),
        ("#f6f8fa", "#dcebfa", "#f6f8fa", "#f6f8fa", "#f6f8fa", "#f6f8fa"),
    )
    parts.append(text(24, 166, "A sparse tensor's section", 15, anchor="start", weight="600"))
    parts += blocks(
        180,
        (130, 150, 150, 180, 190),
        ("codebook", "codes", "directory", "block 0", "block 1 ..."),
        (
            "the shared values",
            "code lengths of the\ntwo Huffman codes",
            "kept weights and\nsizes of each block",
            "bits of gaps, bits of labels\n(four streams each)",
            "decodes without\nthe others",
        ),
        ("#dcebfa",) * 5,
    )
    return picture(848, 276, "The parts of a .dcz file, and of a sparse tensor in it", parts)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("images")
    (folder / "stages.svg").write_text(stages(), encoding="utf-8")
    (folder / "file.svg").write_text(layout(), encoding="utf-8")
