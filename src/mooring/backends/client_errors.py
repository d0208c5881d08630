"""Exceptions of a model's own code that are the client's mistake, because the model says so (``client_errors``)."""

from mooring.core.errors import InvalidInput, ModelLoadFailed


def find_client_error(error: BaseException, names: frozenset[str]) -> InvalidInput | None:
    """Return the error that the client gets, with the exception's text; None where its class has none of these ``names``.

    A class that is derived from one of them counts.
    """
    if not names or names.isdisjoint(kind.__name__ for kind in type(error).__mro__):
        return None
    # The text of a KeyError is the key alone.
    text = "" if isinstance(error, KeyError) else str(error)
    return InvalidInput(text or f"{type(error).__name__}: {error}")


def read_client_errors(model: object) -> frozenset[str]:
    """Return the names in the attribute ``client_errors`` of a model's class or function; none where it has no such attribute.

    Raises ``ModelLoadFailed`` where it holds anything but exception classes and their names.
    """
    listed = getattr(model, "client_errors", ())
    if isinstance(listed, str | type):
        listed = (listed,)
    names = set()
    for each in listed:
        if isinstance(each, type) and issubclass(each, Exception):
            names.add(each.__name__)
        elif isinstance(each, str):
            names.add(each)
        else:
            raise ModelLoadFailed(f"client_errors must list exception classes or their names, not {each!r}")
    return frozenset(names)
