"""The documentation site: `make docs` builds it into build/docs."""

import deepcomp

project = "deepcomp"
author = "The deepcomp authors"
copyright = author
version = release = deepcomp.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",  # for the role below
    "sphinx_copybutton",
    "numpydoc",
    "myst_parser",
]
exclude_patterns = ["README.md"]

# What stands in single backticks is a link where it names something, and emphasised where not.
default_role = "autolink"
autosummary_generate = False
autodoc_default_options = {"members": True}
autodoc_typehints = "none"  # numpydoc sections say it in words
autodoc_preserve_defaults = True
numpydoc_show_class_members = False

myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "deepcomp"
html_copy_source = False
html_show_sphinx = False
