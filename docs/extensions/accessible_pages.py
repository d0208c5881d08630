"""Mends what Sphinx and its theme write that readers with a screen reader stumble over."""

import re
from typing import Any

from sphinx.application import Sphinx

# The parameters of a long signature: a list of definitions that defines nothing.
_PARAMETERS = re.compile(
    r'(<span class="sig-paren">\(</span>\s*)<dl>(.*?)</dl>(?=\s*<span class="sig-paren">)', re.DOTALL
)
_AFTER_THE_THEME = 900


def mend_page(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _tree: object) -> None:
    """Mend the HTML of a page before it is put into its template."""
    navigation = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = navigation.replace('role="heading"', 'role="heading" aria-level="2"')
    if "body" in context:
        context["body"] = _PARAMETERS.sub(_to_spans, context["body"])


def _to_spans(found: re.Match[str]) -> str:
    lines = found[2].replace("<dd>", "<span>").replace("</dd>", "</span>")
    return f'{found[1]}<span class="parameters">{lines}</span>'


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the mending."""
    app.connect("html-page-context", mend_page, priority=_AFTER_THE_THEME)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
