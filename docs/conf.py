"""Sphinx settings."""

import re

project = "diffaug"
author = "The diffaug developers"
copyright = f"2026, {author}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 3  # links to headings, such as offline.md#loading-a-set
html_theme = "furo"
html_title = "diffaug"
html_extra_path = ["llms.txt"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"  # "description" would list the parameters a second time
python_maximum_signature_line_length = 80  # then each parameter has a line
exclude_patterns = ["_build"]

REPOSITORY = "https://github.com/diffaug/diffaug/blob/main/"


def to_repository(app, docname, source):
    """Let links to files that are no pages lead to the repository."""
    source[0] = re.sub(r"\]\(\.\./([^)]+)\)", rf"]({REPOSITORY}\1)", source[0])


def setup(app):
    """Connect what is done to each page."""
    app.connect("source-read", to_repository)
