"""Sphinx settings."""

project = "diffaug"
author = "The diffaug developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 3  # links to headings, such as offline.md#loading-a-set
html_theme = "furo"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
exclude_patterns = ["_build"]
