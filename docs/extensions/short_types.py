"""Types in signatures as a reader knows them: an array of numpy is "numpy.ndarray", whatever it is generic in."""

import re

from sphinx.application import Sphinx

# "~" stands in front of names that are shown without their module.
_ARRAY = re.compile(r"~?numpy\.ndarray\[tuple\[~?typing\.Any, \.\.\.\], ~?numpy\.dtype\[~?numpy\.generic\]\]")


def shorten(
    _app: Sphinx,
    _kind: str,
    _name: str,
    _object: object,
    _options: object,
    arguments: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """Shorten the types of arguments and of what is returned."""
    return _shorten(arguments), _shorten(returned)


def _shorten(text: str | None) -> str | None:
    return _ARRAY.sub("numpy.ndarray", text) if text else text


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the shortening."""
    app.connect("autodoc-process-signature", shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
