"""What Sphinx needs to know to build the documentation site from this folder (``make docs``)."""

import sys
from pathlib import Path

from mooring import __version__

sys.path[:0] = [str(Path(__file__).parent / "extensions"), str(Path(__file__).parent.parent / "scripts")]

project = "Mooring"
author = "The Mooring authors"
project_copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "accessible_pages",
    "decision_links",
    "generated_pages",
    "short_types",
]
exclude_patterns = ["extensions", "pictures"]
smartquotes = False  # it would make a dash of the two in front of an option
highlight_language = "none"  # of blocks that name none: they are commands, settings and lines of logs

myst_enable_extensions = ["attrs_block", "attrs_inline"]
myst_heading_anchors = 5  # as GitHub names them

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

# What is copied of a session in a terminal is its commands.
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .go"

html_theme = "furo"
html_title = "Mooring"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_search_scorer = str(Path(__file__).parent / "extensions" / "search_order.js")
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#0b5d7a", "color-brand-content": "#0b5d7a"},
    "dark_css_variables": {"color-brand-primary": "#6cc3e0", "color-brand-content": "#6cc3e0"},
}
