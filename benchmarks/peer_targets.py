"""The servers of the comparison: how each is started for some models, and which workloads it is asked, and how.

Every server gets the same wish: torch models on ``WORKERS`` workers of ``THREADS`` thread each, at most ``BATCH`` rows a
call, no longer than ``DELAY`` for company; everything else on one worker. ``ways`` says for a workload which path and
which of the bodies of compare.py a server takes; a workload that is not there is one that it cannot do.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from open_inference import INFER
from targets import NGINX, Mooring, Nginx, Target, free_port, kept

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import install

PEERS = Path(__file__).parent / "peers"
TORCH = ("resnet18", "transformer")
WORKERS, THREADS, BATCH, DELAY = 2, 1, 8, 0.005
ECHO_BATCH = 16
SHAPES = {
    "echo": ("FP32", "1", "1"),
    "total": ("FP32", "3, 224, 224", "1"),
    "identity": ("FP32", "3, 224, 224", "3, 224, 224"),
    "resnet18": ("FP32", "3, 224, 224", "1000"),
    "transformer": ("INT64", "64", "2"),
}


@dataclass(frozen=True, slots=True)
class Way:
    """How a server is asked for a workload: the path (of gRPC the method), the kind of body, the kind of answer."""

    path: str
    body: str
    answer: str


class Peer(Target):
    """A server of its own virtual environment. ``python`` is that environment's interpreter."""

    name = ""
    ready = "/ready"
    environment: Mapping[str, str] = {}

    def __init__(self, models: Sequence[str], *, workers: int = WORKERS) -> None:
        super().__init__(self.name)
        self.grpc_port = free_port()
        self.models = list(models)
        self.torch_workers = workers
        self.python = str(install.python(self.package()))

    @classmethod
    def settings(cls, case: str, models: Sequence[str]) -> "Iterator[Peer]":  # noqa: ARG003 - most have one for all
        """The ways to set it up that are worth measuring for a case, the usual one first."""
        yield cls(models)

    def with_workers(self, workers: int) -> Self:
        """Another one of so many workers of torch models."""
        return type(self)(self.models, workers=workers)

    @classmethod
    def package(cls) -> str:
        """What it is called in install.py."""
        return cls.name

    def variables(self, folder: Path) -> dict[str, str]:
        return kept() | {
            "PYTHONPATH": str(PEERS),
            "PYTHONWARNINGS": "ignore",
            "BENCH_PEERS": str(PEERS),
            "BENCH_MODELS": " ".join(self.models),
            "BENCH_THREADS": str(THREADS),
            "BENCH_WORKERS": str(self.torch_workers),
            "BENCH_BATCH": str(BATCH),
            "BENCH_DELAY": str(DELAY),
            "OMP_NUM_THREADS": str(THREADS),
            "MKL_NUM_THREADS": str(THREADS),
            "OPENBLAS_NUM_THREADS": "1",
            "HOME": str(folder),
            **self.environment,
        }

    def ways(self) -> dict[str, Way]:
        """What it can be asked."""
        raise NotImplementedError


class FastApi(Peer):
    """Written by hand."""

    name = "fastapi"

    def __init__(self, models: Sequence[str], *, workers: int = WORKERS, processes: int = 1) -> None:
        super().__init__(models, workers=workers)
        self._processes = processes
        if processes > 1:
            self.label = f"{self.name}, {processes} processes"

    @classmethod
    def settings(cls, case: str, models: Sequence[str]) -> Iterator[Peer]:
        yield cls(models)
        if case == "echo":
            yield cls(models, processes=2)
        if case in TORCH:
            yield BatchedFastApi(models)

    def command(self, folder: Path) -> list[str]:
        command = [
            self.python,
            "-m",
            "uvicorn",
            "fastapi_app:app",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        return [
            *command,
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--no-access-log",
            "--log-level",
            "warning",
            "--workers",
            str(self._processes),
        ]

    def ways(self) -> dict[str, Way]:
        return {
            "echo": Way("/echo", "number", "json"),
            "total JSON": Way("/total_json", "image json", "json"),
            "identity JSON": Way("/identity_json", "image json", "json"),
            "total binary": Way("/total", "image", "json"),
            "identity binary": Way("/identity", "image", "raw"),
            "length raw": Way("/length", "picture", "json"),
            "length form": Way("/length_form", "picture form", "json"),
            "resnet18": Way("/resnet18", "image", "raw"),
            "transformer": Way("/transformer", "words", "raw"),
        }


class BatchedFastApi(FastApi):
    """Written by hand with more care."""

    def __init__(self, models: Sequence[str], *, workers: int = WORKERS) -> None:
        super().__init__(models, workers=workers)
        self.label = "fastapi, batching"

    def ways(self) -> dict[str, Way]:
        return {
            "resnet18": Way("/batched/resnet18", "image", "raw"),
            "transformer": Way("/batched/transformer", "words", "raw"),
        }


class V2Peer(Peer):
    """A server of the Open Inference Protocol.

    Those that are slow with binary tensors over HTTP, or do not take them, are asked for the models over gRPC as well.
    """

    ready = "/v2/health/ready"
    best_over_grpc = False

    def __init__(
        self, models: Sequence[str], *, workers: int = WORKERS, setting: str = "", over_grpc: bool = False
    ) -> None:
        super().__init__(models, workers=workers)
        self._over_grpc = over_grpc
        setting = "gRPC" if over_grpc else setting
        self.label = f"{self.name}, {setting}" if setting else self.name

    @classmethod
    def settings(cls, case: str, models: Sequence[str]) -> Iterator[Peer]:
        yield cls(models)
        if cls.best_over_grpc and case in TORCH:
            yield cls(models, over_grpc=True)

    def ways(self) -> dict[str, Way]:
        if self._over_grpc:
            kinds = {"resnet18": "image", "transformer": "words"}
            return {name: Way(INFER, f"{kind} message {name}", "message") for name, kind in kinds.items()}
        return self.http_ways()

    def http_ways(self) -> dict[str, Way]:
        """Over HTTP, and of gRPC the workloads that are about it."""
        path = "/v2/models/{}/infer"
        return {
            "echo v2": Way(path.format("echo"), "number v2", "v2"),
            "total JSON": Way(path.format("total"), "image v2 json", "v2"),
            "identity JSON": Way(path.format("identity"), "image v2 json", "v2"),
            "total binary": Way(path.format("total"), "image v2", "v2"),
            "identity binary": Way(path.format("identity"), "image v2", "v2"),
            "resnet18": Way(path.format("resnet18"), "image v2", "v2"),
            "transformer": Way(path.format("transformer"), "words v2", "v2"),
            "gRPC echo": Way(INFER, "number message echo", "message"),
            "gRPC identity": Way(INFER, "image message identity", "message"),
        }


class KServe(V2Peer):
    """KServe's Python server. Of a binary tensor over HTTP it makes a list of Python's numbers first, over gRPC it does not."""

    name = "kserve"
    best_over_grpc = True

    def command(self, folder: Path) -> list[str]:
        log = folder / "log.yaml"
        log.write_text("version: 1\ndisable_existing_loggers: false\nroot: {level: WARNING}\n")
        command = [self.python, str(PEERS / "kserve_server.py"), "--http_port", str(self.port), "--grpc_port"]
        return [
            *command,
            str(self.grpc_port),
            "--enable_latency_logging",
            "false",
            "--log_config_file",
            str(log),
        ]


class Triton(V2Peer):
    """Triton's own server with its python backend, out of PyTriton's package."""

    name = "tritonserver"

    @classmethod
    def package(cls) -> str:
        return "pytriton"

    def _site(self) -> Path:
        return next((install.PEERS / "pytriton" / "lib").glob("python3*")) / "site-packages"

    def variables(self, folder: Path) -> dict[str, str]:
        site = self._site()
        ask = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
        library = subprocess.run(
            [self.python, "-c", ask], capture_output=True, text=True, check=True
        ).stdout.strip()
        found = [
            library,
            str(site / "pytriton/tritonserver/external_libs"),
            str(site / "nvidia_pytriton.libs"),
        ]
        environment = install.PEERS / "pytriton"
        return super().variables(folder) | {
            "LD_LIBRARY_PATH": ":".join(found),
            "PYTHONPATH": f"{site}:{PEERS}",
            "VIRTUAL_ENV": str(environment),
            "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        }

    def command(self, folder: Path) -> list[str]:
        bundle = self._site() / "pytriton/tritonserver"
        backend = folder / "backends" / "python"
        shutil.copytree(bundle / "backends" / "python", backend)
        stub = f"{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copy(bundle / "python_backend_stubs" / stub / "triton_python_backend_stub", backend)
        for model in self.models:
            self._declare(model, folder / "models" / model)
        command = [str(bundle / "bin" / "tritonserver"), "--model-repository", str(folder / "models")]
        command += [
            "--backend-directory",
            str(folder / "backends"),
            "--allow-metrics",
            "false",
            "--log-info",
            "false",
        ]
        command += ["--http-address", "127.0.0.1", "--http-port", str(self.port)]
        return [*command, "--grpc-address", "127.0.0.1", "--grpc-port", str(self.grpc_port)]

    def _declare(self, model: str, folder: Path) -> None:
        datatype, given, wanted = SHAPES[model]
        heavy = model in TORCH
        (folder / "1").mkdir(parents=True)
        shutil.copy(PEERS / "triton_model.py", folder / "1" / "model.py")
        (folder / "config.pbtxt").write_text(
            f'name: "{model}"\nbackend: "python"\nmax_batch_size: {BATCH if heavy else 16}\n'
            f'input [{{ name: "x" data_type: TYPE_{datatype} dims: [{given}] }}]\n'
            f'output [{{ name: "y" data_type: TYPE_FP32 dims: [{wanted}] }}]\n'
            f"instance_group [{{ kind: KIND_CPU count: {self.torch_workers if heavy else 1} }}]\n"
            f"dynamic_batching {{ max_queue_delay_microseconds: {int(DELAY * 1e6) if heavy else 0} }}\n"
        )


class PyTriton(V2Peer):
    """PyTriton: functions bound to the server that it brings."""

    name = "pytriton"

    def variables(self, folder: Path) -> dict[str, str]:
        ask = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
        library = subprocess.run(
            [self.python, "-c", ask], capture_output=True, text=True, check=True
        ).stdout.strip()
        path = f"{install.PEERS / 'pytriton' / 'bin'}:{os.environ['PATH']}"
        return super().variables(folder) | {
            "LD_LIBRARY_PATH": library,
            "PATH": path,
            "PYTRITON_HOME": str(folder / "home"),
        }

    def command(self, folder: Path) -> list[str]:
        return [self.python, str(PEERS / "pytriton_server.py"), str(self.port), str(self.grpc_port)]


class MlServer(V2Peer):
    """MLServer. It takes no binary tensors over REST. Without workers models run in the server's own process."""

    name = "mlserver"
    best_over_grpc = True

    @classmethod
    def settings(cls, case: str, models: Sequence[str]) -> Iterator[Peer]:
        yield from super().settings(case, models)
        if case == "echo":
            yield cls(models, workers=0, setting="in process")

    def command(self, folder: Path) -> list[str]:
        (folder / "settings.json").write_text(
            f'{{"debug": false, "host": "127.0.0.1", "http_port": {self.port}, "grpc_port": {self.grpc_port},'
            f' "metrics_port": {free_port()}, "parallel_workers": {self.torch_workers}, "grpc_max_message_length": 67108864}}'
        )
        for model in self.models:
            (folder / model).mkdir()
            size, delay = (BATCH, DELAY) if model in TORCH else (0, 0)
            (folder / model / "model-settings.json").write_text(
                f'{{"name": "{model}", "implementation": "mlserver_runtime.Runtime",'
                f' "max_batch_size": {size}, "max_batch_time": {delay}}}'
            )
        return [str(Path(self.python).parent / "mlserver"), "start", str(folder)]

    def http_ways(self) -> dict[str, Way]:
        ways = super().http_ways()
        ways["resnet18"] = Way("/v2/models/resnet18/infer", "image v2 json", "v2")
        ways["transformer"] = Way("/v2/models/transformer/infer", "words v2 json", "v2")
        return {name: way for name, way in ways.items() if "binary" not in name}


class LitServe(Peer):
    """LitServe. It takes no raw bodies."""

    name = "litserve"
    ready = "/health"

    def __init__(self, models: Sequence[str], *, workers: int = WORKERS, fronts: int = 1) -> None:
        super().__init__(models, workers=workers)
        self._fronts = fronts
        if fronts > 1:
            self.label = f"{self.name}, {fronts} fronts"

    @classmethod
    def settings(cls, case: str, models: Sequence[str]) -> Iterator[Peer]:
        yield cls(models)
        if case == "echo":
            yield cls(models, fronts=2)

    def command(self, folder: Path) -> list[str]:
        return [self.python, str(PEERS / "litserve_server.py"), str(self.port), str(self._fronts)]

    def ways(self) -> dict[str, Way]:
        return {
            "echo": Way("/echo", "number", "json"),
            "total JSON": Way("/total", "image json", "json"),
            "total binary": Way("/total", "image form", "json"),
            "identity binary": Way("/identity", "image form", "raw"),
            "length form": Way("/length", "picture form", "json"),
            "resnet18": Way("/resnet18", "image form", "raw"),
            "transformer": Way("/transformer", "words form", "raw"),
        }


class BentoMl(Peer):
    """BentoML. It takes no raw bodies, and what it batches as JSON only."""

    name = "bentoml"
    ready = "/readyz"
    environment: Mapping[str, str] = {"BENTOML_DO_NOT_TRACK": "True"}

    def command(self, folder: Path) -> list[str]:
        shutil.copy(PEERS / "bentoml_service.py", folder / "service.py")
        bento = str(Path(self.python).parent / "bentoml")
        return [
            bento,
            "serve",
            "service:Served",
            "--working-dir",
            str(folder),
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]

    def ways(self) -> dict[str, Way]:
        return {
            "echo": Way("/echo", "number", "json"),
            "total JSON": Way("/total", "image json", "json"),
            "identity JSON": Way("/identity", "image json", "json"),
            "total binary": Way("/total_form", "image form", "json"),
            "length form": Way("/length", "picture form", "json"),
            "resnet18": Way("/resnet18", "image json", "json"),
            "transformer": Way("/transformer", "words json", "json"),
        }


def write_archive_folder(model: str, folder: Path, *, batch: int, workers: int) -> None:
    """What TorchServe and our own server take for a model archive, not packed."""
    folder.mkdir(parents=True)
    for name in ("models.py", "torchserve_handler.py"):
        shutil.copy(PEERS / name, folder)
    (folder / "model-config.yaml").write_text(
        f"minWorkers: {workers}\nmaxWorkers: {workers}\nbatchSize: {batch}\nmaxBatchDelay: {int(DELAY * 1e3)}\n"
        f"responseTimeout: 120\nhandler:\n  name: {model}\n"
    )
    (folder / "MAR-INF").mkdir()
    (folder / "MAR-INF" / "MANIFEST.json").write_text(
        f'{{"runtime": "python", "model": {{"modelName": "{model}", "handler": "torchserve_handler.py",'
        ' "modelVersion": "1.0", "configFile": "model-config.yaml"}}'
    )


PREDICTIONS = {
    "echo": Way("/predictions/echo", "number", "json"),
    "total raw": Way("/predictions/total", "image", "json"),
    "identity raw": Way("/predictions/identity", "image", "raw"),
    "length raw": Way("/predictions/length", "picture", "json"),
    "length form": Way("/predictions/length", "picture form", "json"),
}


class TorchServe(Peer):
    """TorchServe, with the access log off."""

    name = "torchserve"
    ready = "/ping"
    warm_up = 5.0  # before that it compiles itself

    def __init__(
        self,
        models: Sequence[str],
        *,
        workers: int = WORKERS,
        echo_batch: int = 1,
        echo_workers: int = 1,
    ) -> None:
        super().__init__([*models, "length"] if "echo" in models else models, workers=workers)
        self._echo = echo_batch, echo_workers
        if echo_batch > 1:
            self.label = f"{self.name}, batch {echo_batch}"
        elif echo_workers > 1:
            self.label = f"{self.name}, {echo_workers} workers"

    @classmethod
    def settings(cls, case: str, models: Sequence[str]) -> Iterator[Peer]:
        yield cls(models)
        if case == "echo":
            yield cls(models, echo_batch=ECHO_BATCH)
            yield cls(models, echo_workers=2)

    def variables(self, folder: Path) -> dict[str, str]:
        path = f"{Path(self.python).parent}:{os.environ['PATH']}"
        logs, own = str(folder / "logs"), folder / "tmp"  # where it looks for another one that runs
        own.mkdir()
        return super().variables(folder) | {
            "PATH": path,
            "LOG_LOCATION": logs,
            "METRICS_LOCATION": logs,
            "TMPDIR": str(own),
        }

    def command(self, folder: Path) -> list[str]:
        for model in self.models:
            batch, workers = (BATCH, self.torch_workers) if model in TORCH else self._echo
            write_archive_folder(model, folder / "store" / model, batch=batch, workers=workers)
        addresses = [f"{name}_address=http://127.0.0.1:{port}" for name, port in (
            ("inference", self.port), ("management", free_port()), ("metrics", free_port()))]  # fmt: skip
        (folder / "config.properties").write_text("\n".join([
            *addresses, f"grpc_inference_port={self.grpc_port}", f"grpc_management_port={free_port()}",
            "disable_token_authorization=true", f"model_store={folder / 'store'}", f"load_models={','.join(self.models)}",
            "max_request_size=65535000", "max_response_size=65535000", "job_queue_size=1000",
            "disable_system_metrics=true", "",
        ]))  # fmt: skip
        (folder / "log4j2.xml").write_text(
            "<Configuration><Appenders><Console name='c'><PatternLayout pattern='%p %m%n'/></Console></Appenders>"
            "<Loggers><Root level='warn'><AppenderRef ref='c'/></Root></Loggers></Configuration>"
        )
        command = [str(Path(self.python).parent / "torchserve"), "--start", "--foreground", "--ncs"]
        return [
            *command,
            "--log-config",
            str(folder / "log4j2.xml"),
            "--ts-config",
            str(folder / "config.properties"),
        ]

    def ways(self) -> dict[str, Way]:
        return {
            **{
                name.replace("raw", "binary") if "length" not in name else name: way
                for name, way in PREDICTIONS.items()
            },
            "total JSON": Way("/predictions/total", "image json", "json"),
            "identity JSON": Way("/predictions/identity", "image json", "json"),
            "resnet18": Way("/predictions/resnet18", "image", "raw"),
            "transformer": Way("/predictions/transformer", "words", "raw"),
        }


class Ours(Mooring):
    """Our own server: functions and handlers for what is light, TorchScript or ONNX for what is not."""

    ready = "/ping"

    def __init__(
        self, models: Sequence[str], exported: Path, *, engine: str = "torch", workers: int = WORKERS
    ) -> None:
        super().__init__()
        self.torch_workers = workers
        self.models = list(models)
        self._exported = exported
        self.engine = engine
        self.label = {"torch": "mooring", "onnx": "mooring, ONNX"}[engine]

    def with_workers(self, workers: int) -> "Ours":
        """Another one of so many workers of torch models."""
        return Ours(self.models, self._exported, engine=self.engine, workers=workers)

    def variables(self, folder: Path) -> dict[str, str]:
        return kept() | {"BENCH_THREADS": str(THREADS)}

    def command(self, folder: Path) -> list[str]:
        light = [model for model in self.models if model not in TORCH]
        for model in [*light, "length"] if light else []:
            # TorchServe's echo is measured with and without batches: waiting for them costs it its latency, and us nothing.
            batch = ECHO_BATCH if model == "echo" else 1
            write_archive_folder(model, folder / "handlers" / model, batch=batch, workers=1)
            self._arguments.append(f"{model}={folder / 'handlers' / model}")
        for model in self.models:
            name = model if model in TORCH else f"{model}_function"
            self._declare(model, name, folder / "models" / name)
        return [*super().command(folder), "--model-repository", str(folder / "models")]

    def _declare(self, model: str, name: str, folder: Path) -> None:
        datatype, given, wanted = SHAPES[model]
        heavy = model in TORCH
        (folder / "1").mkdir(parents=True)
        if heavy:
            file = "model.onnx" if self.engine == "onnx" else "model.pt"
            platform = "onnx" if self.engine == "onnx" else "pytorch_torchscript"
            shutil.copy(self._exported / model / file, folder / "1")
        else:
            platform, file = "python", f"mooring_models.py:{model}"
            for source in ("models.py", "mooring_models.py"):
                shutil.copy(PEERS / source, folder / "1")
        workers, threads, batch = (self.torch_workers, THREADS, BATCH) if heavy else (1, 1, ECHO_BATCH)
        (folder / "config.toml").write_text(
            f'name = "{name}"\nplatform = "{platform}"\nentry = "{file}"\nmax_batch_size = {batch}\nthreads = {threads}\n'
            f"[workers]\nmin = {workers}\nmax = {workers}\n"
            f'[[inputs]]\nname = "x"\ndatatype = "{datatype}"\nshape = [-1, {given}]\n'
            f'[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [-1, {wanted}]\n'
        )

    def ways(self) -> dict[str, Way]:
        path = "/v2/models/{}/infer"
        return {
            "echo": PREDICTIONS["echo"],
            "echo v2": Way(path.format("echo_function"), "number v2", "v2"),
            "total JSON": Way(path.format("total_function"), "image v2 json", "v2"),
            "identity JSON": Way(path.format("identity_function"), "image v2 json", "v2"),
            "total binary": Way(path.format("total_function"), "image v2", "v2"),
            "identity binary": Way(path.format("identity_function"), "image v2", "v2"),
            "length raw": PREDICTIONS["length raw"],
            "length form": PREDICTIONS["length form"],
            "resnet18": Way(path.format("resnet18"), "image v2", "v2"),
            "transformer": Way(path.format("transformer"), "words v2", "v2"),
            "gRPC echo": Way(INFER, "number message echo_function", "message"),
            "gRPC identity": Way(INFER, "image message identity_function", "message"),
        }


class StaticFile(Nginx):
    """The floor of a tiny request: nginx answers it with a file."""

    def __init__(self) -> None:
        super().__init__()
        self.label = "nginx, a file"

    @staticmethod
    def there() -> bool:
        """Whether it is installed."""
        return NGINX is not None

    def ways(self) -> dict[str, Way]:
        return {"echo": Way("/small", "number", "json")}


Server = Peer | Ours | StaticFile

PEER_KINDS: tuple[type[Peer], ...] = (
    TorchServe,
    Triton,
    PyTriton,
    KServe,
    MlServer,
    LitServe,
    BentoMl,
    FastApi,
)
