"""Texts for terminals, and tables of them. Standard library only."""


def to_table(head: list[str], lines: list[list[str]], n_left: int) -> str:
    """Align columns; rules go under the head and above the last line.

    Parameters
    ----------
    head : list of str
    lines : list of list of str
        At least one, each as long as `head`.
    n_left : int
        How many columns are aligned to the left; the others are numbers.

    Returns
    -------
    str

    Examples
    --------
    >>> print(to_table(["part", "bytes"], [["labels", "9"], ["file", "12"]], 1))
    part    bytes
    -------------
    labels      9
    -------------
    file       12
    """
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]

    def join(line: list[str]) -> str:
        cells = [
            cell.ljust(width) if i < n_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([join(head), rule, *map(join, lines[:-1]), rule, join(lines[-1])])


def counted(n: int, noun: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> counted(1, "page"), counted(2000, "page")
    ('1 page', '2,000 pages')
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def printable(text: str) -> str:
    """Return a text from a file without anything that a terminal would obey.

    Examples
    --------
    >>> printable("a\\x1b[2J")
    'a\\\\x1b[2J'
    """
    return text if text.isprintable() else text.encode("unicode_escape").decode()
