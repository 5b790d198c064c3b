"""Sphinx configuration."""

import inspect
import sys
from pathlib import Path

import torch

import bptt

# What the pages compute is small: a second thread that waits for its core makes it ten times slower.
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
    "notebook",
    "offline",
    "remade",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3  # a section of "The mistakes" is linked to by its code
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
html_css_files = ["drawn.css", "formulas.css", "course.css", "copy.css"]
html_js_files = ["copy.js"]
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


def sign(app, what, name, thing, options, signature, back):
    """Our RNN, GRU and LSTM take what torch's do, which they hand on unread: it is written out here."""
    if what != "class" or not issubclass(thing, torch.nn.RNNBase):
        return None
    taken = dict(inspect.signature(torch.nn.RNNBase.__init__).parameters)
    gone = {"self", "mode"} if issubclass(thing, torch.nn.LSTM) else {"self", "mode", "proj_size"}
    kept = [p.replace(annotation=p.empty) for n, p in taken.items() if n not in gone]
    if issubclass(thing, torch.nn.RNN):
        place = [p.name for p in kept].index("num_layers") + 1
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        kept.insert(place, inspect.Parameter("nonlinearity", kind, default="tanh"))
    return str(inspect.Signature(kept)), back


def setup(app):
    """Signatures that autodoc cannot see."""
    app.connect("autodoc-process-signature", sign)
