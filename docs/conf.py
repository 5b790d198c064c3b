"""Sphinx configuration."""

import bptt

project = "bptt"
author = "the bptt developers"
copyright = "the bptt developers"
version = release = bptt.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "myst_parser",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
napoleon_use_ivar = True  # a dataclass documents its fields once, in its own docstring
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "bptt"
nitpicky = False
