"""How long a handler's methods take, where its model-config.yaml asks for it."""

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any


def timeit(func: Callable[..., Any]) -> Callable[..., Any]:
    """Print how many seconds each call takes, and how many of the CPU."""

    @functools.wraps(func)
    def run_and_print(*args: Any, **kwargs: Any) -> Any:
        started, cpu = time.perf_counter(), time.process_time()
        result = func(*args, **kwargs)
        took, cpu = time.perf_counter() - started, time.process_time() - cpu
        print(f"func: {func.__name__!r} took a total of {took:.4f} sec to run and {cpu:.4f} sec of CPU time")  # noqa: T201 - its purpose
        return result

    return run_and_print


def timed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Record ``ts_handler_<method>`` in milliseconds when model-config.yaml says ``handler: {profile: true}``."""
    metric = f"ts_handler_{method.__name__}"
    if inspect.iscoroutinefunction(method):
        return _timed_coroutine(method, metric)

    @functools.wraps(method)
    def run_timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        context = getattr(self, "context", None)
        if context is None or not _is_profiled(context):
            return method(self, *args, **kwargs)
        started = time.perf_counter()
        try:
            return method(self, *args, **kwargs)
        finally:
            context.metrics.add_time(metric, round((time.perf_counter() - started) * 1000, 2))

    return run_timed


def _timed_coroutine(method: Callable[..., Any], metric: str) -> Callable[..., Any]:
    @functools.wraps(method)
    async def run_timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return await method(self, *args, **kwargs)
        finally:
            context = getattr(self, "context", None)
            if context is not None and _is_profiled(context):
                context.metrics.add_time(metric, round((time.perf_counter() - started) * 1000, 2))

    return run_timed


def _is_profiled(context: Any) -> bool:
    config = getattr(context, "model_yaml_config", None)  # the contexts of users' own tests lack it
    settings = config.get("handler") if config else None
    return isinstance(settings, dict) and bool(settings.get("profile"))
