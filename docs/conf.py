"""How the documentation is built: `python3 noxfile.py docs`. Nothing is fetched."""

from __future__ import annotations

import re

from pygments.lexers.sql import PostgresLexer
from sphinx.application import Sphinx

project = "asyncjobs"
copyright = "the authors of asyncjobs"  # noqa: A001 -- Sphinx's word
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinxcontrib.mermaid"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "asyncjobs"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
default_role = "code"  # what docstrings put in single backticks
html_copy_source = False

HIDDEN = re.compile(r"<!-- run:\n.*?-->", re.DOTALL)


def without_the_stage(app: Sphinx, name: str, source: list[str]) -> None:  # noqa: ARG001
    """Leave out what tests run and readers do not see, and keep the numbers of the lines."""
    source[0] = HIDDEN.sub(lambda hidden: "\n" * hidden[0].count("\n"), source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", without_the_stage)
    app.add_lexer("sql", PostgresLexer)  # which knows what $$ is
