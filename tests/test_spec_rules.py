"""Each rule of the specification has vectors that break it, and each vector has a rule."""

import json
import re
import subprocess
import sys

import pytest
from independent import FORMATS

VECTORS = FORMATS / "vectors"
RULE_WORDS = re.compile(
    r"\b(must|may|exactly|at most|at least|less than|below|different|none|only|never|without|not|no"
    r"|all|each|every)\b"
)


def words(text):
    return re.sub(r"\s+", " ", text).strip()


def sections_of_the_specification():
    """Return the text of each section by its number, without its subsections."""
    parts = re.split(
        r"^##+ (\d[\d.]*?)\.? .*$", (FORMATS / "dcz.md").read_text("utf-8"), flags=re.M
    )
    return {number: words(text) for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def table(part):
    """Return the rows of a table of rules.md: section, quotation, names of vectors."""
    text = (VECTORS / "rules.md").read_text("utf-8").split("\n## ")[part]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line[:1] == "|"]
    return [
        (section.strip(), words(quote.replace("\\|", "|")), names.split())
        for section, quote, names in rows[2:]
    ]


SPEC, BROKEN, NEEDED = sections_of_the_specification(), table(0), table(1)


def test_every_rule_is_in_the_words_of_its_section():
    assert len(BROKEN) > 90 and len(NEEDED) > 20
    for section, quote, _ in BROKEN + NEEDED:
        assert quote in SPEC[section], (section, quote)


def test_every_rule_has_a_vector_and_every_vector_a_rule():
    assert all(names for _, _, names in BROKEN)
    named = {name for _, _, names in BROKEN for name in names}
    assert named == {path.stem for path in (VECTORS / "invalid").glob("*.dcz")}
    valid = {path.stem for path in (VECTORS / "valid").glob("*.dcz")}
    assert {name for _, _, names in NEEDED for name in names} <= valid


@pytest.mark.parametrize("section", [s for s in SPEC if s.split(".")[0] in {*"1234567"}])
def test_every_sentence_that_sounds_like_a_rule_is_one(section):
    quotes = [quote for _, quote, _ in BROKEN + NEEDED]
    paragraphs = (FORMATS / "dcz.md").read_text("utf-8").split("\n\n")
    for part in [part for part in paragraphs if words(part) in SPEC[section]]:
        for line in re.split(r"\n(?=[|*] )|\n(?=\d\. )|\n(?= +\* )", part):
            for sentence in re.split(r"(?<=\.)\s+(?=[A-Z`(])", line):
                if RULE_WORDS.search(sentence):
                    assert any(q in words(sentence) for q in quotes), words(sentence)


def test_every_vector_breaks_the_section_that_it_is_meant_to_break():
    """The script itself compares the section with the one that the independent decoder names."""
    script = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from invalid_vectors import invalid_vectors\n"
        "print(json.dumps({name: section for name, (section, _) in invalid_vectors().items()}))"
    )
    command = [sys.executable, "-c", script, str(VECTORS)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for name, section in json.loads(result.stdout).items():
        assert section in {s for s, _, names in BROKEN if name in names}, name
