"""The documentation site: `make docs` builds it into build/docs."""

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes

import deepcomp

project = "deepcomp"
author = "The deepcomp authors"
copyright = author
version = release = deepcomp.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "numpydoc",
    "myst_parser",
]

default_role = "obj"  # of names in single backticks; see `find`
autodoc_default_options = {"members": True}
autodoc_typehints = "none"  # numpydoc sections say it in words
autodoc_preserve_defaults = True
numpydoc_show_class_members = False

myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "deepcomp"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def find(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Link a name in backticks to what it names, from any module; others are names of parameters.

    Full names that lead nowhere stay warnings, which `make docs` takes for errors.
    """
    target = node.get("reftarget", "")
    if node.get("reftype") != "obj" or target.startswith("deepcomp."):
        return None
    domain = env.get_domain("py")
    for name in (f"deepcomp.{target}", f"deepcomp.importers.{target}"):
        if name in domain.objects:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)
    return content


# Pages that stand elsewhere in the repository, and what their links to one another become here.
ELSEWHERE = {
    "changes": "CHANGELOG.md",
    "compared": "benchmarks/COMPARED.md",
    "measuring": "benchmarks/README.md",
    "proofs": "formats/TESTING.md",
    "results": "benchmarks/RESULTS.md",
    "retrained": "benchmarks/RETRAINED.md",
    "security": "SECURITY.md",
    "specification": "formats/dcz.md",
}
LINKS = {
    "(README.md)": "(measuring.md)",
    "(formats/TESTING.md)": "(proofs.md)",
    "(figures/": "(../benchmarks/figures/",
}


def read_elsewhere(app: Any, name: str, content: list[str]) -> None:
    """Put the text of the file that a page stands for into its place."""
    if name not in ELSEWHERE:
        return
    path = Path(__file__).parents[1] / ELSEWHERE[name]
    app.env.note_dependency(str(path))
    content[0] = path.read_text(encoding="utf-8")
    for old, new in LINKS.items():
        content[0] = content[0].replace(old, new)


def open_pictures(app: Any, doctree: Any, name: str) -> None:
    """Let a link to a picture show it in full size, where Sphinx would let it be downloaded."""
    for node in list(doctree.findall(addnodes.download_reference)):
        if node["reftarget"].startswith("images/"):
            target = f"_{node['reftarget']}"  # where the HTML builder puts pictures
            node.replace_self(nodes.reference("", "", *node.children, refuri=target))


def setup(app: Any) -> None:
    app.connect("source-read", read_elsewhere)
    app.connect("missing-reference", find)
    app.connect("doctree-resolved", open_pictures)
