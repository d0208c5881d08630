"""One function of a model of values, with all that is known of it from its hints."""

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any

from mooring.backends.user_function import name_of
from mooring.backends.values.answers import Answers
from mooring.backends.values.arguments import Arguments
from mooring.backends.values.results import result_hint, result_type
from mooring.codecs.nonfinite import writes_null
from mooring.core.errors import ModelLoadFailed
from mooring.repository.spec import ModelSpec

_LISTS = (list, Sequence)


class Callee:
    """One function of the model: how it is called, and how what it returns becomes an answer."""

    def __init__(self, function: Callable[..., Any], spec: ModelSpec, *, batched: bool) -> None:
        self.call = function
        self.name = name_of(function)
        self.batched = batched
        self.arguments = Arguments(function, batched=batched)
        arguments = self.arguments
        # Whether a call has arguments that are not inputs.
        self.takes_more = bool(arguments.request or arguments.parameters or arguments.cancelled)
        if batched and not arguments.inputs:
            raise ModelLoadFailed(
                f"'{self.name}' has no inputs, so that @mooring.batch has nothing to put together"
            )
        hint = result_hint(arguments.result_hint)
        if batched:
            items = typing.get_args(hint) if typing.get_origin(hint) in _LISTS else ()
            hint = items[0] if items else inspect.Parameter.empty
        self.result = result_type(hint)
        self.answers = Answers(
            self.result,
            self.name,
            spec,
            null=writes_null(spec.handler.json_nan, by_default=True),
            batched=batched,
        )
