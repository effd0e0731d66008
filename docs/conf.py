"""Sphinx configuration. `make docs` builds without network: no intersphinx."""

import sktransformers

project = "sktransformers"
author = "the sktransformers developers"
copyright = f"2026, {author}"
release = version = sktransformers.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "literal"  # `x` in a docstring is code, as in scikit-learn's

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 2
numpydoc_show_class_members = False  # the class template lists them

html_theme = "pydata_sphinx_theme"
html_title = f"sktransformers {release}"
html_show_sourcelink = False


def skip_member(app, what, name, obj, skip, options):
    """Leave out scikit-learn's metadata requests: their docstrings refer to its user guide."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def setup(app):
    app.connect("autodoc-skip-member", skip_member)
