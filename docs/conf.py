"""Sphinx configuration: `make docs`."""

from importlib.metadata import version as installed

project = "interpretgan"
author = "The interpretgan authors"
project_copyright = "2026, The interpretgan authors"
release = version = installed("interpretgan")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

default_role = "code"  # the docstrings write `names` and `formulas` between single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "forward"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "interpretgan"
html_show_sphinx = False
suppress_warnings = ["ref.python"]  # a word that several classes have as an attribute links to none of them
