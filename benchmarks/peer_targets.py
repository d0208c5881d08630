"""The servers of the comparison: how each starts with some models, and the route of each workload.

Every server gets the same settings: torch models on ``WORKERS`` workers of ``THREADS`` thread each, at most ``BATCH`` rows a
call, at most ``DELAY`` seconds of waiting for a batch; every other model on one worker. ``routes`` has the path and the kind
of body of each workload; a server cannot do a workload that is not there.
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
from targets import NGINX, Mooring, Nginx, Target, find_free_port, make_environment

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
class Route:
    """The route of a workload: the path (or gRPC method), the kind of body, the kind of answer."""

    path: str
    body: str
    answer: str


class Peer(Target):
    """Somebody else's server, in a virtual environment of its own. ``python`` is the interpreter of that environment."""

    name = ""
    ready = "/ready"
    environment: Mapping[str, str] = {}

    def __init__(self, models: Sequence[str], *, workers: int = WORKERS) -> None:
        super().__init__(self.name)
        self.grpc_port = find_free_port()
        self.models = list(models)
        self.torch_workers = workers
        self.python = str(install.python(self.package()))

    @classmethod
    def settings(cls, case: str, models: Sequence[str]) -> "Iterator[Peer]":  # noqa: ARG003 - most have one for all
        """Yield the server in each setting that is worth measuring for a case, the usual one first."""
        yield cls(models)

    def with_workers(self, workers: int) -> Self:
        """Return a new server with this number of workers for torch models."""
        return type(self)(self.models, workers=workers)

    @classmethod
    def package(cls) -> str:
        """Return the name of the server in install.py."""
        return cls.name

    def variables(self, folder: Path) -> dict[str, str]:
        return make_environment() | {
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

    def routes(self) -> dict[str, Route]:
        """Return the route of each workload that the server can do."""
        raise NotImplementedError


class FastApi(Peer):
    """A FastAPI application written by hand."""

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

    def routes(self) -> dict[str, Route]:
        return {
            "echo": Route("/echo", "number", "json"),
            "total JSON": Route("/total_json", "image json", "json"),
            "identity JSON": Route("/identity_json", "image json", "json"),
            "total binary": Route("/total", "image", "json"),
            "identity binary": Route("/identity", "image", "raw"),
            "length raw": Route("/length", "picture", "json"),
            "length form": Route("/length_form", "picture form", "json"),
            "resnet18": Route("/resnet18", "image", "raw"),
            "transformer": Route("/transformer", "words", "raw"),
        }


class BatchedFastApi(FastApi):
    """The same application with a batcher written by hand."""

    def __init__(self, models: Sequence[str], *, workers: int = WORKERS) -> None:
        super().__init__(models, workers=workers)
        self.label = "fastapi, batching"

    def routes(self) -> dict[str, Route]:
        return {
            "resnet18": Route("/batched/resnet18", "image", "raw"),
            "transformer": Route("/batched/transformer", "words", "raw"),
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

    def routes(self) -> dict[str, Route]:
        if self._over_grpc:
            kinds = {"resnet18": "image", "transformer": "words"}
            return {name: Route(INFER, f"{kind} message {name}", "message") for name, kind in kinds.items()}
        return self.http_routes()

    def http_routes(self) -> dict[str, Route]:
        """Return the routes over HTTP, and over gRPC those of the gRPC workloads."""
        path = "/v2/models/{}/infer"
        return {
            "echo v2": Route(path.format("echo"), "number v2", "v2"),
            "total JSON": Route(path.format("total"), "image v2 json", "v2"),
            "identity JSON": Route(path.format("identity"), "image v2 json", "v2"),
            "total binary": Route(path.format("total"), "image v2", "v2"),
            "identity binary": Route(path.format("identity"), "image v2", "v2"),
            "resnet18": Route(path.format("resnet18"), "image v2", "v2"),
            "transformer": Route(path.format("transformer"), "words v2", "v2"),
            "gRPC echo": Route(INFER, "number message echo", "message"),
            "gRPC identity": Route(INFER, "image message identity", "message"),
        }


class KServe(V2Peer):
    """KServe's Python server. It turns a binary tensor over HTTP into a list of Python numbers first, but not over gRPC."""

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

    def _site_packages(self) -> Path:
        return next((install.PEERS / "pytriton" / "lib").glob("python3*")) / "site-packages"

    def variables(self, folder: Path) -> dict[str, str]:
        site = self._site_packages()
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
        bundle = self._site_packages() / "pytriton/tritonserver"
        backend = folder / "backends" / "python"
        shutil.copytree(bundle / "backends" / "python", backend)
        stub = f"{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copy(bundle / "python_backend_stubs" / stub / "triton_python_backend_stub", backend)
        for model in self.models:
            self._write_config(model, folder / "models" / model)
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

    def _write_config(self, model: str, folder: Path) -> None:
        datatype, input_shape, output_shape = SHAPES[model]
        heavy = model in TORCH
        (folder / "1").mkdir(parents=True)
        shutil.copy(PEERS / "triton_model.py", folder / "1" / "model.py")
        (folder / "config.pbtxt").write_text(
            f'name: "{model}"\nbackend: "python"\nmax_batch_size: {BATCH if heavy else 16}\n'
            f'input [{{ name: "x" data_type: TYPE_{datatype} dims: [{input_shape}] }}]\n'
            f'output [{{ name: "y" data_type: TYPE_FP32 dims: [{output_shape}] }}]\n'
            f"instance_group [{{ kind: KIND_CPU count: {self.torch_workers if heavy else 1} }}]\n"
            f"dynamic_batching {{ max_queue_delay_microseconds: {int(DELAY * 1e6) if heavy else 0} }}\n"
        )


class PyTriton(V2Peer):
    """PyTriton: functions bound to the Triton server in its package."""

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
    """MLServer. It takes no binary tensors over REST. Without workers, models run in the server process."""

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
            f' "metrics_port": {find_free_port()}, "parallel_workers": {self.torch_workers}, "grpc_max_message_length": 67108864}}'
        )
        for model in self.models:
            (folder / model).mkdir()
            size, delay = (BATCH, DELAY) if model in TORCH else (0, 0)
            (folder / model / "model-settings.json").write_text(
                f'{{"name": "{model}", "implementation": "mlserver_runtime.Runtime",'
                f' "max_batch_size": {size}, "max_batch_time": {delay}}}'
            )
        return [str(Path(self.python).parent / "mlserver"), "start", str(folder)]

    def http_routes(self) -> dict[str, Route]:
        routes = super().http_routes()
        routes["resnet18"] = Route("/v2/models/resnet18/infer", "image v2 json", "v2")
        routes["transformer"] = Route("/v2/models/transformer/infer", "words v2 json", "v2")
        return {name: route for name, route in routes.items() if "binary" not in name}


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

    def routes(self) -> dict[str, Route]:
        return {
            "echo": Route("/echo", "number", "json"),
            "total JSON": Route("/total", "image json", "json"),
            "total binary": Route("/total", "image form", "json"),
            "identity binary": Route("/identity", "image form", "raw"),
            "length form": Route("/length", "picture form", "json"),
            "resnet18": Route("/resnet18", "image form", "raw"),
            "transformer": Route("/transformer", "words form", "raw"),
        }


class BentoMl(Peer):
    """BentoML. It takes no raw bodies, and batches JSON only."""

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

    def routes(self) -> dict[str, Route]:
        return {
            "echo": Route("/echo", "number", "json"),
            "total JSON": Route("/total", "image json", "json"),
            "identity JSON": Route("/identity", "image json", "json"),
            "total binary": Route("/total_form", "image form", "json"),
            "length form": Route("/length", "picture form", "json"),
            "resnet18": Route("/resnet18", "image json", "json"),
            "transformer": Route("/transformer", "words json", "json"),
        }


def write_archive_folder(model: str, folder: Path, *, batch: int, workers: int) -> None:
    """Write the folder of an unpacked model archive, which TorchServe and our own server take."""
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
    "echo": Route("/predictions/echo", "number", "json"),
    "total raw": Route("/predictions/total", "image", "json"),
    "identity raw": Route("/predictions/identity", "image", "raw"),
    "length raw": Route("/predictions/length", "picture", "json"),
    "length form": Route("/predictions/length", "picture form", "json"),
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
            ("inference", self.port), ("management", find_free_port()), ("metrics", find_free_port()))]  # fmt: skip
        (folder / "config.properties").write_text("\n".join([
            *addresses, f"grpc_inference_port={self.grpc_port}", f"grpc_management_port={find_free_port()}",
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

    def routes(self) -> dict[str, Route]:
        return {
            **{
                name.replace("raw", "binary") if "length" not in name else name: route
                for name, route in PREDICTIONS.items()
            },
            "total JSON": Route("/predictions/total", "image json", "json"),
            "identity JSON": Route("/predictions/identity", "image json", "json"),
            "resnet18": Route("/predictions/resnet18", "image", "raw"),
            "transformer": Route("/predictions/transformer", "words", "raw"),
        }


class Ours(Mooring):
    """Our own server: functions and handlers for the light models, TorchScript or ONNX files for the others."""

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
        """Return a new server with this number of workers for torch models."""
        return Ours(self.models, self._exported, engine=self.engine, workers=workers)

    def variables(self, folder: Path) -> dict[str, str]:
        return make_environment() | {"BENCH_THREADS": str(THREADS)}

    def command(self, folder: Path) -> list[str]:
        light = [model for model in self.models if model not in TORCH]
        for model in [*light, "length"] if light else []:
            # TorchServe's echo is measured with and without batches: waiting for them costs it its latency, and us nothing.
            batch = ECHO_BATCH if model == "echo" else 1
            write_archive_folder(model, folder / "handlers" / model, batch=batch, workers=1)
            self._arguments.append(f"{model}={folder / 'handlers' / model}")
        for model in self.models:
            name = model if model in TORCH else f"{model}_function"
            self._write_config(model, name, folder / "models" / name)
        return [*super().command(folder), "--model-repository", str(folder / "models")]

    def _write_config(self, model: str, name: str, folder: Path) -> None:
        datatype, input_shape, output_shape = SHAPES[model]
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
            f'[[inputs]]\nname = "x"\ndatatype = "{datatype}"\nshape = [-1, {input_shape}]\n'
            f'[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [-1, {output_shape}]\n'
        )

    def routes(self) -> dict[str, Route]:
        path = "/v2/models/{}/infer"
        return {
            "echo": PREDICTIONS["echo"],
            "echo v2": Route(path.format("echo_function"), "number v2", "v2"),
            "total JSON": Route(path.format("total_function"), "image v2 json", "v2"),
            "identity JSON": Route(path.format("identity_function"), "image v2 json", "v2"),
            "total binary": Route(path.format("total_function"), "image v2", "v2"),
            "identity binary": Route(path.format("identity_function"), "image v2", "v2"),
            "length raw": PREDICTIONS["length raw"],
            "length form": PREDICTIONS["length form"],
            "resnet18": Route(path.format("resnet18"), "image v2", "v2"),
            "transformer": Route(path.format("transformer"), "words v2", "v2"),
            "gRPC echo": Route(INFER, "number message echo_function", "message"),
            "gRPC identity": Route(INFER, "image message identity_function", "message"),
        }


class StaticFile(Nginx):
    """The floor of a tiny request: nginx answers it with a file."""

    def __init__(self) -> None:
        super().__init__()
        self.label = "nginx, a file"

    @staticmethod
    def is_installed() -> bool:
        """Return whether nginx is installed."""
        return NGINX is not None

    def routes(self) -> dict[str, Route]:
        return {"echo": Route("/small", "number", "json")}


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
