"""Models in this very process, asked as a worker asks them: the backend itself, with the requests that protocols make.

There is no server, no port and no queue. A synchronous model runs in the thread that asks, so that breakpoints work; an
asynchronous one on its own event loop, which a thread runs.
"""

import asyncio
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, chdir, nullcontext
from pathlib import Path
from queue import Queue
from typing import Any, TypeVar

from mooring.backends.backend import Backend, Concurrent, Stepwise, create_backend
from mooring.backends.pickled_object import MODEL_FILE, NAME
from mooring.client.result import ServerMetadata
from mooring.config.model_options import model_options
from mooring.config.sources.loading import load_config
from mooring.core.errors import ModelNotFound, MooringError, RequestCancelled, Unsupported
from mooring.core.requests import INFER, InferenceRequest, InferenceResponse
from mooring.core.service import LoadContext, MetricValue, ModelMetadata, Outcome, Reply
from mooring.hardware import count_cores
from mooring.python_api.settings import to_plain
from mooring.python_api.targets import check_name, check_servable, name_of
from mooring.repository.spec import Defaults, ModelSpec
from mooring.repository.store import Store
from mooring.worker_process.outcomes import failure_of

T = TypeVar("T")

Emit = Callable[[InferenceResponse], None]

# What the files of objects that are served in this process give, by their numbers.
_objects: dict[int, Any] = {}
_SOURCE = """from mooring.python_api.in_process import take_object

{name} = take_object({number})
"""


def take_object(number: int) -> Any:
    """Return an object that is served in this process; the file that stands for it calls this."""
    return _objects[number]


class InProcessModel:
    """One loaded model. Raises what its worker would report, with the model's own exception as the cause."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._backend: Backend = create_backend(spec.backend)
        context = LoadContext(worker="in process", threads=max(1, count_cores() // 2))
        before = Path.cwd()
        self.metadata: ModelMetadata = _outside_loops(lambda: self._backend.load(spec, context))
        # A handler works in its model's folder, as in TorchServe; None for a model that stays where it is.
        self._folder = Path.cwd() if Path.cwd() != before else None
        os.chdir(before)
        self._runner = (
            _LoopThread(self._backend.overlap) if isinstance(self._backend.overlap, Concurrent) else None
        )

    def ask(
        self,
        request: InferenceRequest,
        emit: Emit,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> InferenceResponse:
        """Ask the model and return its answer, or the last piece of it; ``emit`` gets the pieces before that.

        Raises ``MooringError``, with the exception of the model's code as its cause.
        """
        reply = _Reply(emit, cancelled)
        try:
            with chdir(self._folder) if self._folder is not None else nullcontext():
                (outcome,) = self._infer(request, reply)
        except MooringError:
            raise
        except Exception as error:  # user code may raise anything
            raise failure_of(error) from error
        if isinstance(outcome, MooringError):
            raise outcome
        outcome.model, outcome.version = self.spec.name, self.spec.version  # as the engine does
        return outcome

    def _infer(self, request: InferenceRequest, reply: Reply) -> Sequence[Outcome]:
        overlap = self._backend.overlap
        if self._runner is not None:
            return self._runner.run(self._runner.model.infer([request], reply))
        if isinstance(overlap, Stepwise) and request.operation is INFER:
            return self._run_steps(overlap, request, reply)
        return self._backend.infer([request], reply)

    def _run_steps(self, model: Stepwise, request: InferenceRequest, reply: Reply) -> Sequence[Outcome]:
        started = 0
        while True:
            (outcome,) = model.run_step([request], started, reply)
            if isinstance(outcome, MooringError) or outcome.final:
                return [outcome]
            reply.emit(0, outcome)
            started = 1
            if reply.cancelled(0):
                return [RequestCancelled("nobody waits for the rest of the stream")]

    def stream(self, request: InferenceRequest) -> Generator[InferenceResponse, None, None]:
        """Yield the pieces of an answer as they come, from a thread that runs the model. Leaving it cancels the request."""
        pieces: Queue[InferenceResponse | BaseException | None] = Queue(1)
        left = threading.Event()

        def emit(piece: InferenceResponse) -> None:
            pieces.put(piece)

        def run() -> None:
            try:
                pieces.put(self.ask(request, emit, left.is_set))
                pieces.put(None)
            except BaseException as error:  # for the thread that asked
                pieces.put(error)

        thread = threading.Thread(target=run, name="streamed answer", daemon=True)
        thread.start()
        over = False
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    over = True
                    raise piece
                yield piece
            over = True
        finally:
            left.set()
            while not over:
                over = not isinstance(pieces.get(), InferenceResponse)
            thread.join()

    def close(self) -> None:
        """Close the model."""
        if self._runner is not None:
            self._runner.close()
        _outside_loops(self._backend.close)


class _LoopThread:
    """Runs the event loop of a model that takes requests while others run."""

    def __init__(self, model: Concurrent) -> None:
        self.model = model
        self._thread = threading.Thread(
            target=lambda: model.serve(model.loop.run_forever), name="model's loop", daemon=True
        )
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end there, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.model.loop).result()

    def close(self) -> None:
        self.model.loop.call_soon_threadsafe(self.model.loop.stop)
        self._thread.join()


class _Reply:
    """The ``Reply`` of one request."""

    def __init__(self, emit: Emit, cancelled: Callable[[], bool]) -> None:
        self._emit = emit
        self._cancelled = cancelled

    def emit(self, row: int, piece: InferenceResponse) -> None:
        self._emit(piece)

    def cancelled(self, row: int) -> bool:
        return self._cancelled()

    def record_metric(self, metric: MetricValue) -> None:
        pass


class _ProcessState:
    """What loading a model changes of a process, which in a test is not the model's own: it is undone at the end."""

    def __init__(self) -> None:
        self._paths = list(sys.path)
        self._hooks = list(sys.path_hooks)
        self._variables = dict(os.environ)
        self._folder = Path.cwd()
        self._new_paths: list[str] = []
        self._new_hooks: list[Any] = []
        self._changed: dict[str, str | None] = {}  # None for a variable that was removed

    def note(self) -> None:
        """Note what is new by now, and go back to the folder of the test."""
        self._new_paths = [each for each in sys.path if each not in self._paths]
        self._new_hooks = [each for each in sys.path_hooks if each not in self._hooks]
        self._changed = {
            name: os.environ.get(name)
            for name in self._variables.keys() | os.environ.keys()
            if self._variables.get(name) != os.environ.get(name)
        }
        os.chdir(self._folder)

    def undo(self) -> None:
        """Take back what is new. The next model may have other files of the same names, so that no module of this one stays."""
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file and any(Path(file).is_relative_to(each) for each in self._new_paths):
                del sys.modules[name]
        sys.path[:] = [each for each in sys.path if each not in self._new_paths]
        sys.path_hooks[:] = [each for each in sys.path_hooks if each not in self._new_hooks]
        for name, value in self._changed.items():
            if os.environ.get(name) == value:
                os.environ.pop(name, None)
                if name in self._variables:
                    os.environ[name] = self._variables[name]


def _outside_loops(function: Callable[[], T]) -> T:
    """Call a function that may run an event loop of its own, in a thread where this one runs a loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function()
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result()


class InProcessModels:
    """The models of a target by name, loaded in this process; ``settings`` are those of ``mooring.serve``.

    As a client's ``Transport`` it has them answer the client's calls.
    """

    def __init__(self, target: Any, settings: Mapping[str, Any]) -> None:
        self._models: dict[str, InProcessModel] = {}
        self._numbers: list[int] = []
        self._state = _ProcessState()
        self._stack = ExitStack()
        with ExitStack() as failed:
            failed.callback(self.close)
            failed.callback(self._state.note)
            self._folder = Path(
                self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mooring-testing-"))
            )
            config = load_config(to_plain(settings), {})
            defaults = Defaults(
                options=model_options(config),
                handler=config.default_service_handler,
                settings=config.model_settings,
            )
            (self._folder / "archives").mkdir()
            store = Store(self._folder / "archives", defaults)
            for each in self._targets(target):
                spec = store.read_target(each)[-1]
                self._models[spec.name] = InProcessModel(spec)
            self._state.note()
            failed.pop_all()

    def _targets(self, target: Any) -> list[str]:
        """Return targets of a store that stand for these, where an object is what a file gives that is made for it."""
        if isinstance(target, Mapping):
            return [f"{check_name(name)}={self._to_target(each, name)}" for name, each in target.items()]
        if isinstance(target, str | Path):
            return [str(target)]
        name = check_name(name_of(target))
        return [f"{name}={self._to_target(target, name)}"]

    def _to_target(self, target: Any, name: str) -> str:
        if isinstance(target, str | Path):
            return str(target)
        check_servable(target)
        number = id(target)
        _objects[number] = target
        self._numbers.append(number)
        folder = self._folder / name
        folder.mkdir()
        (folder / MODEL_FILE).write_text(_SOURCE.format(name=NAME, number=number))
        return f"{folder / MODEL_FILE}:{NAME}"

    @property
    def names(self) -> list[str]:
        return list(self._models)

    def find(self, name: str) -> InProcessModel:
        """Return a model. Raises ``ModelNotFound``."""
        try:
            return self._models[name]
        except KeyError:
            known = ", ".join(self._models)
            others = f"there is {known}" if known else "the client is closed"
            raise ModelNotFound(f"there is no model '{name}'; {others}", model=name) from None

    def close(self) -> None:
        """Close all models; this process imports from no folder any more that they brought."""
        while self._models:
            self._models.popitem()[1].close()
        while self._numbers:
            _objects.pop(self._numbers.pop(), None)
        self._state.undo()
        self._stack.close()

    def infer(
        self, request: InferenceRequest, timed: bool = False, timeout: float | None = None
    ) -> tuple[InferenceResponse, str]:
        """Return the only piece of an answer, and no timings. Raises ``Unsupported`` where there are more, as a server does."""
        found: list[InferenceResponse] = []

        def emit(piece: InferenceResponse) -> None:
            if piece.outputs:
                if found:
                    raise Unsupported(f"model '{request.model}' streams its answers: ask it by stream()")
                found.append(piece)

        last = self.find(request.model).ask(request, emit)
        if found:
            emit(last)
        return (found[0] if found else last), ""

    def stream(
        self, request: InferenceRequest, timeout: float | None = None
    ) -> Generator[InferenceResponse, None, None]:
        yield from self.find(request.model).stream(request)

    def live(self, timeout: float | None = None) -> bool:
        return True

    def ready(self, model: str, version: str, timeout: float | None = None) -> bool:
        return not model or self.find(model) is not None

    def server(self, timeout: float | None = None) -> ServerMetadata:
        return ServerMetadata(name="mooring")

    def metadata(self, model: str, version: str, timeout: float | None = None) -> ModelMetadata:
        return self.find(model).metadata
