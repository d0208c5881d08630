"""Splitting a batch so that one part is prepared while another is inferred (docs/contracts/torchserve.md, section 2.6)."""

import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from mooring.backends.handler.context import Context

_STEPS = ("preprocess", "inference", "postprocess")


class MicroBatching:
    """Stands in for a handler's ``handle``: its three steps run in threads of their own, part by part.

    ``parallelism`` is how many threads a step has (by default one). The order of the rows is kept.
    """

    def __init__(
        self, parent_handler: Any, micro_batch_size: int = 1, parallelism: Mapping[str, int] | None = None
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self._queues: dict[str, queue.SimpleQueue[tuple[Any, Future[Any]] | None]] = {}
        self._threads: list[threading.Thread] = []
        self._parallelism: dict[str, int] = {}
        self.parallelism = parallelism or {}

    @property
    def parallelism(self) -> Mapping[str, int]:
        """Threads by step; set it in ``initialize``, where the model's configuration is known."""
        return self._parallelism

    @parallelism.setter
    def parallelism(self, parallelism: Mapping[str, int]) -> None:
        unknown = set(parallelism) - set(_STEPS)
        if unknown:
            raise ValueError(f"unknown steps {sorted(unknown)} in parallelism; known are {', '.join(_STEPS)}")
        self.shutdown()
        self._parallelism = {step: max(parallelism.get(step, 1), 1) for step in _STEPS}

    def _start_threads(self) -> None:
        self._queues = {step: queue.SimpleQueue() for step in _STEPS}
        for step, count in self._parallelism.items():
            for number in range(count):
                thread = threading.Thread(
                    target=self._run_step, args=(step,), name=f"{step}-{number}", daemon=True
                )
                thread.start()
                self._threads.append(thread)

    def _run_step(self, step: str) -> None:
        """Take a part, do this step of it and pass it on; an error goes straight to whoever waits for the part."""
        index = _STEPS.index(step)
        following = self._queues[_STEPS[index + 1]] if index + 1 < len(_STEPS) else None
        while (work := self._queues[step].get()) is not None:
            part, result = work
            try:
                output = getattr(self.handler, step)(part)
            except Exception as error:  # the handler's own code
                result.set_exception(error)
                continue
            if following is None:
                result.set_result(output)
            else:
                following.put((output, result))

    def handle(self, data: list[Any], context: Context) -> list[Any]:
        """The results of all rows, in order. Raises what the first bad part raised."""
        if any(context.get_request_header(0, question) == "True" for question in ("explain", "describe")):
            whole: list[Any] = type(self.handler).handle(self.handler, data, context)
            return whole
        self.handler.context = context
        # Made here, before several threads ask for it at once.
        assert context.request_processor is not None
        if not self._threads:
            self._start_threads()
        size = max(self.micro_batch_size, 1)
        parts: list[Future[Any]] = []
        for start in range(0, len(data), size):
            result: Future[Any] = Future()
            parts.append(result)
            self._queues["preprocess"].put((data[start : start + size], result))
        errors = [part.exception() for part in parts]  # none may still run when the next batch begins
        for error in errors:
            if error is not None:
                raise error
        return [item for part in parts for item in part.result()]

    def __call__(self, data: list[Any], context: Context) -> list[Any]:
        return self.handle(data, context)

    def shutdown(self) -> None:
        """End the threads, once what they have is done. A later batch starts new ones."""
        for step, waiting in self._queues.items():
            for _ in range(self._parallelism[step]):
                waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
