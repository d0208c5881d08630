"""Splitting a batch so that one part is prepared while another is inferred (docs/contracts/torchserve.md, section 2.6)."""

import os
import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

_STEPS = ("preprocess", "inference", "postprocess")


class _Part(NamedTuple):
    """A part of a batch between two steps: its number, what the next step gets, and where its results go."""

    number: int
    data: Any
    result: Future[Any]


class MicroBatching:
    """Stands in for a handler's ``handle``: its three steps run in threads of their own, part by part.

    ``parallelism`` is how many threads a step has (by default one). The order of the rows is kept.
    """

    def __init__(
        self, parent_handler: Any, micro_batch_size: int = 1, parallelism: Mapping[str, int] | None = None
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self.thread_groups: dict[str, list[threading.Thread]] = {}
        self._queues: dict[str, queue.SimpleQueue[_Part | None]] = {}
        self._started = False
        self._running = threading.local()
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
        self._create_threads()

    def _create_threads(self) -> None:
        """Create the threads of every step. They start with the first batch: a process with threads cannot be forked."""
        self._queues = {step: queue.SimpleQueue() for step in _STEPS}
        self.thread_groups = {
            step: [
                threading.Thread(target=self._run_step, args=(step,), name=f"{step}-{number}", daemon=True)
                for number in range(count)
            ]
            for step, count in self._parallelism.items()
        }

    def get_micro_batch_idx(self) -> int | None:
        """The number of the part at hand within its batch, from 0; None outside of the three steps."""
        return getattr(self._running, "index", None)

    def _run_step(self, step: str) -> None:
        """Take a part, do this step of it and pass it on; an error goes straight to whoever waits for the part."""
        index = _STEPS.index(step)
        following = self._queues[_STEPS[index + 1]] if index + 1 < len(_STEPS) else None
        while (work := self._queues[step].get()) is not None:
            self._running.index = work.number
            try:
                output = getattr(self.handler, step)(work.data)
            except Exception as error:  # the handler's own code
                work.result.set_exception(error)
                continue
            if following is None:
                work.result.set_result(output)
            else:
                following.put(work._replace(data=output))

    def handle(self, data: list[Any], context: Any = None) -> list[Any]:
        """The results of all rows, in order. Raises what the first bad part raised.

        ``context`` may be any object with what the handler asks of it; without one the handler's own is taken.
        """
        if context is None:
            context = self.handler.context
        if self._is_whole(context):
            whole: list[Any] = type(self.handler).handle(self.handler, data, context)
            return whole
        self.handler.context = context
        # Made here, before several threads ask for it at once.
        getattr(context, "request_processor", None)
        self._start_threads()
        size = max(self.micro_batch_size, 1)
        parts: list[Future[Any]] = []
        for start in range(0, len(data), size):
            result: Future[Any] = Future()
            self._queues["preprocess"].put(_Part(len(parts), data[start : start + size], result))
            parts.append(result)
        errors = [part.exception() for part in parts]  # none may still run when the next batch begins
        for error in errors:
            if error is not None:
                raise error
        return [item for part in parts for item in part.result()]

    def __call__(self, data: list[Any], context: Any) -> list[Any]:
        return self.handle(data, context)

    def _is_whole(self, context: Any) -> bool:
        """Whether a batch is not to be split: for an explanation, a description, and the profiler."""
        return bool(os.environ.get("ENABLE_TORCH_PROFILER")) or any(
            context.get_request_header(0, question) == "True" for question in ("explain", "describe")
        )

    def _start_threads(self) -> None:
        if not self._started:
            self._started = True
            for group in self.thread_groups.values():
                for thread in group:
                    thread.start()

    def shutdown(self) -> None:
        """End the threads, once what they have is done. A later batch starts new ones."""
        if not self._started:
            return
        self._started = False
        for step, group in self.thread_groups.items():
            for _ in group:
                self._queues[step].put(None)
        for group in self.thread_groups.values():
            for thread in group:
                thread.join()
        self._create_threads()
