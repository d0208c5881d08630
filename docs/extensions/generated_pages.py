"""What the build adds to the text of a page: the commands as they are, and the navigation of folders with an index."""

from describe_commands import describe_commands
from sphinx.application import Sphinx

# Their files are read on GitHub as well, where a list of pages for the site would only be in the way.
_INDEXES = {"decisions/README": "0*", "measurements/README": "[a-z]*", "contracts/README": "[a-z]*"}


def add_to_page(_app: Sphinx, page: str, source: list[str]) -> None:
    """Add what belongs to a page, before it is parsed."""
    if page == "reference/commands":
        source[0] += "\n" + describe_commands()
    if page in _INDEXES:
        source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{_INDEXES[page]}\n```\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the additions."""
    app.connect("source-read", add_to_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
