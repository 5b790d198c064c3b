"""Sphinx configuration."""

import sys
from pathlib import Path

import torch

import bptt

# What the pages compute is small: a second thread that has to wait for its core makes it ten times slower.
torch.set_num_threads(1)

for folder in ("_ext", "figures"):  # the directive, and what the figures share
    sys.path.insert(0, str(Path(__file__).parent / folder))

project = "bptt"
author = "the bptt developers"
copyright = "the bptt developers"
version = release = bptt.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "drawn",
    "course",
    "formulas",
    "offline",
    "remade",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
napoleon_use_ivar = True  # a dataclass documents its fields once, in its own docstring
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"  # fields are documented as attributes, once
autodoc_default_options = {"members": True}
html_math_renderer = "mathml"
exclude_patterns = ["_build", "_ext", "figures"]
html_theme = "furo"
html_title = "bptt"
html_static_path = ["_static"]
html_css_files = ["drawn.css", "formulas.css", "course.css"]
# A reference to a name of ours must lead somewhere; torch's, numpy's and typing's are not on these pages.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!bptt\.).*|.*\._\w+"),
    # Types of fields that are handed on and never made by a caller.
    (
        "py:class",
        r"bptt\.(recurrence\.(unrolled\.Unrolled|clock\.Owner)|training\.schedule\.Spent)",
    ),
]
