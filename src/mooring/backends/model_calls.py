"""What one call of a user's function gives: an output, something to await, or a stream; and what it may raise."""

import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

from mooring.core.errors import ModelFailed, MooringError, OutOfResources, RequestCancelled
from mooring.core.missing_packages import install_hint


def to_model_failure(error: BaseException) -> ModelFailed:
    """Return an exception of the model's code as our error: its type and text, with the traceback for the log."""
    kind = type(error).__name__
    # torch names its own error so, and it is no MemoryError.
    out_of_memory = isinstance(error, MemoryError) or kind == "OutOfMemoryError"
    detail = "".join(traceback.format_exception(error))
    failure = (OutOfResources if out_of_memory else ModelFailed)(
        f"{kind}: {error}{install_hint(error)}", detail=detail
    )
    failure.__cause__ = error
    return failure


def is_stream(returned: Any) -> bool:
    """Whether a function returned the pieces of a stream, one after the other."""
    return hasattr(returned, "__next__") or hasattr(returned, "__anext__")


async def await_output(returned: Any) -> Any:
    """Await the output of a model that waits. What it raises becomes a ``ModelFailed`` with its traceback."""
    if not hasattr(returned, "__await__"):
        return returned
    try:
        return await returned
    except MooringError:
        raise
    except Exception as error:
        raise to_model_failure(error) from error


async def iterate_pieces(returned: Any, is_cancelled: Callable[[], bool]) -> AsyncGenerator[Any, None]:
    """Yield the pieces until the stream ends, and close it. Raises ``RequestCancelled`` once nobody waits for them."""
    try:
        async for piece in returned if hasattr(returned, "__anext__") else _iterate_async(returned):
            yield piece
            if is_cancelled():
                raise RequestCancelled("nobody waits for the rest of the stream")
    except MooringError:
        raise
    except Exception as error:
        raise to_model_failure(error) from error
    finally:
        if hasattr(returned, "aclose"):
            await returned.aclose()
        elif hasattr(returned, "close"):
            returned.close()


async def _iterate_async(pieces: Iterator[Any]) -> AsyncIterator[Any]:
    for piece in pieces:
        yield piece
