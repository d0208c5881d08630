"""Links from "decision 42" and "decisions 6 and 7" in a text to the records of these decisions."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

_NAMED = re.compile(r"[Dd]ecisions?\s\d+(?:(?:,\s|\sand\s)\d+)*")
_NUMBER = re.compile(r"\d+")
# A link, a heading and what is quoted as code stay as they are.
_LEFT_ALONE = (nodes.reference, addnodes.pending_xref, nodes.title, nodes.literal, nodes.literal_block)


class DecisionLinks(SphinxTransform):
    """Makes a link of each number of a decision that has a record."""

    default_priority = 700

    def apply(self, **_more: Any) -> None:
        records = {
            int(file.stem[:4]): f"/decisions/{file.stem}"
            for file in Path(self.app.srcdir, "decisions").glob("[0-9]*.md")
        }
        for text in list(self.document.findall(nodes.Text)):
            if _NAMED.search(text) and not _is_left_alone(text):
                text.parent.replace(text, list(_link_numbers(str(text), records, self.env.docname)))


def _is_left_alone(node: nodes.Node) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, _LEFT_ALONE):
            return True
    return False


def _link_numbers(text: str, records: dict[int, str], page: str) -> Iterator[nodes.Node]:
    done = 0
    for phrase in _NAMED.finditer(text):
        for number in _NUMBER.finditer(text, *phrase.span()):
            if int(number[0]) in records:
                yield nodes.Text(text[done : number.start()])
                yield _link(number[0], records[int(number[0])], page)
                done = number.end()
    yield nodes.Text(text[done:])


def _link(shown: str, record: str, page: str) -> nodes.Node:
    link = addnodes.pending_xref(
        "", refdomain="std", reftype="doc", reftarget=record, refexplicit=True, refwarn=True, refdoc=page
    )
    link += nodes.inline("", shown, classes=["std", "std-doc"])
    return link


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the links."""
    app.add_transform(DecisionLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
