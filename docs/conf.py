"""How Sphinx makes pages of the repository's Markdown: `make docs`.

The root of the sources is the repository's, so that links between README.md, docs/ and the others
are the same files here and where the repository is browsed. Holds no text of its own.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

project = "bisenetv2_ros"
version = re.findall(
    r'^__version__ = "(.+?)"', (ROOT / "bisenetv2_ros" / "__init__.py").read_text(), re.MULTILINE
)[0]
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "models/*.md", "requirements/*.md", "training/*.md"]
html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = False
myst_heading_anchors = 3  # links to #headings
highlight_language = "none"  # program output is not Python
smartquotes = False  # strings are copied from the pages
html_use_index = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["pages.css"]
