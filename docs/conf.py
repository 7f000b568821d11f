"""How the documentation is built: `python3 noxfile.py docs`. Nothing is fetched."""

from __future__ import annotations

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
