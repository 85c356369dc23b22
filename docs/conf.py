# See LICENSE for details.
"""
How Sphinx makes the documentation.
"""

import re
from pathlib import Path

_init = Path(__file__).parent.parent / "pcapdaemon" / "__init__.py"
_version = re.search(r'__version__ = "(.*)"', _init.read_text())
assert _version is not None

project = "pcapdaemon"
copyright = "the pcapdaemon developers"
version = release = _version[1]

exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {
    "description": "Packets of an incident, captured when an event asks for them",
    "fixed_sidebar": True,
    "page_width": "1000px",
}
html_show_sourcelink = False
nitpicky = True
# The report of the benchmarks is in Markdown.
extensions = ["myst_parser", "sphinx.ext.autosectionlabel"]
autosectionlabel_prefix_document = True
