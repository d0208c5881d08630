"""Every setting of the server, in one frozen type that is handed down. Nothing else is looked up.

``mooring.config.sources`` makes one out of files, the environment and flags.
"""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta


class ConfigError(Exception):
    """A setting that cannot be used. The text names its place, its value and what is allowed."""


class Address(msgspec.Struct, frozen=True):
    """The address of a listener: a host and a port (0 takes a free one), or a unix socket at ``path``.

    A ``secure`` one speaks TLS.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    secure: bool = False

    @property
    def scheme(self) -> str:
        """``unix``, ``http`` or ``https``."""
        return "unix" if self.path else "https" if self.secure else "http"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def reachable(self) -> "Address":
        """The address by which this machine reaches the listener, also one that is bound to every address.

        >>> str(Address("0.0.0.0", 8080).reachable)
        'http://127.0.0.1:8080'
        """
        everywhere = self.host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
        return msgspec.structs.replace(self, host="127.0.0.1") if everywhere else self

    @classmethod
    def parse(cls, text: str, port: int) -> "Address":
        """Parse an address as users write it; ``port`` stands in where it names none. Raises ``ValueError``.

        >>> Address.parse("http://[::1]:8080", 80)
        Address(host='::1', port=8080, path='', secure=False)
        """
        if text.startswith("unix:/"):
            return cls(path=text.removeprefix("unix:").removeprefix("//"))
        parts = urlsplit(text if "://" in text else f"//{text}")
        beyond = (
            parts.path.strip("/")
            or parts.query
            or parts.fragment
            or "@" in parts.netloc
            or parts.netloc.endswith(":")
        )
        if parts.scheme not in ("", "http", "https") or not parts.hostname or beyond:
            raise ValueError("must be http://HOST:PORT, https://HOST:PORT or unix:/path")
        try:
            chosen = port if parts.port is None else parts.port
        except ValueError:
            raise ValueError("the port must be a number from 0 to 65535") from None
        return cls(parts.hostname, chosen, secure=parts.scheme == "https")

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class Secret(msgspec.Struct, frozen=True, eq=False):
    """A text that is never shown: neither where settings are printed nor where one of them is refused.

    ``file`` is the file that it was read from, empty for the environment; it does not count for equality.
    """

    text: str = ""
    file: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __bool__(self) -> bool:
        return bool(self.text)

    def __repr__(self) -> str:
        return "Secret(...)" if self.text else "Secret()"

    def __str__(self) -> str:
        return "***" if self.text else ""


class ModelSettings(msgspec.Struct, frozen=True, rename="camel"):
    """One version of a model in TorchServe's ``models`` setting. None leaves an option to the model's own config.

    ``max_batch_delay`` is in milliseconds and the time-outs are in seconds, as in TorchServe.
    """

    default_version: bool = False
    mar_name: str = ""
    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    max_batch_delay: int | None = None
    response_timeout: float | None = None
    startup_timeout: float | None = None
    runtime_type: str = ""
    handler: str = ""  # ours: one that an operator named at the registration


class Snapshot(msgspec.Struct, frozen=True, rename="camel"):
    """The models that were served and their settings, in TorchServe's form. ``created`` is in milliseconds since 1970."""

    name: str = ""
    model_count: int = 0
    created: int = 0
    models: dict[str, dict[str, ModelSettings]] = {}


def encode_snapshot(snapshot: Snapshot) -> str:
    """The snapshot as JSON, as TorchServe writes it."""
    document = msgspec.to_builtins(snapshot) | {"models": to_torchserve_models(snapshot.models)}
    return msgspec.json.encode(document).decode()


def to_torchserve_models(
    models: Mapping[str, Mapping[str, ModelSettings]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """The ``models`` setting in a form that TorchServe reads, too: whole numbers without a fraction, and no empty keys."""

    def compact(settings: ModelSettings) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.to_builtins(settings)
        return {
            key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in found.items()
            if value is not None and value != ""
        }

    return {
        name: {version: compact(each) for version, each in versions.items()}
        for name, versions in models.items()
    }


Names = tuple[str, ...]
Versions = dict[str, dict[str, ModelSettings]]
Folder = Path | None
Folders = tuple[Path, ...]
Switch = bool | None  # None where the default depends on other settings
Seconds = Annotated[float, Meta(gt=0)]
Age = Annotated[float, Meta(ge=0)]
Bytes = Annotated[int, Meta(ge=1)]
Header = Annotated[str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
RootPath = Annotated[str, Meta(pattern=r"^((/[A-Za-z0-9._~-]+)+/?)?$")]
ClusterName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
Count = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65_535)]


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of the server. Times are in seconds, sizes in bytes, paths relative to the working directory."""

    targets: Annotated[
        Names, Meta(description="what to serve: a model file, FILE.py:NAME, MODULE:NAME, a folder or a URL")
    ] = ()
    host: Annotated[
        str,
        Meta(
            description="the host where inference is served, over HTTP and gRPC, such as 0.0.0.0 for all of this machine's"
            " addresses; management and metrics stay where only this machine reaches them"
        ),
    ] = ""
    port: Annotated[
        Port | None,
        Meta(
            description="the port of the inference address; management, metrics, gRPC and the management over gRPC take the"
            " next free ports after it, where they are not given their own; 0 is a free port for each"
        ),
    ] = None
    reload: Annotated[
        bool,
        Meta(
            description="whether the models that the command line names are loaded anew when their files change, true or"
            " false; the old code serves until the new one is ready"
        ),
    ] = False
    inference_address: Annotated[
        Address,
        Meta(description="where predictions are served, http://HOST:PORT, https://HOST:PORT or unix:/path"),
    ] = Address("127.0.0.1", 8080)
    second_inference_address: Annotated[
        Address | None,
        Meta(
            description="where predictions are served, too, without the console, such as the port that KServe asks, beside"
            " inference_address; the first process serves it"
        ),
    ] = None
    management_address: Annotated[
        Address,
        Meta(description="where models are managed, http://HOST:PORT, https://HOST:PORT or unix:/path"),
    ] = Address("127.0.0.1", 8081)
    metrics_address: Annotated[
        Address, Meta(description="where metrics are read, http://HOST:PORT, https://HOST:PORT or unix:/path")
    ] = Address("127.0.0.1", 8082)
    enable_metrics_api: Annotated[bool, Meta(description="whether metrics are served, true or false")] = True
    metrics_mode: Annotated[
        Literal["prometheus", "log", "legacy", "both"],
        Meta(
            description="where metrics go: prometheus serves them, log writes them as lines, both does both, legacy"
            " serves TorchServe's three by model and writes the others"
        ),
    ] = "prometheus"
    metrics_config: Annotated[
        Folder,
        Meta(description="a metrics.yaml that declares metrics for every handler, as TorchServe's does"),
    ] = None
    metric_time_interval: Annotated[
        Seconds,
        Meta(description="seconds between two times that the metrics of the machine are written as lines"),
    ] = 60.0
    metrics_folder: Annotated[
        Folder,
        Meta(
            description="folder for ts_metrics.log and model_metrics.log, where metrics_mode writes metrics;"
            " they go to the log without"
        ),
    ] = None
    disable_system_metrics: Annotated[
        bool, Meta(description="whether metrics leave out CPU, memory, disk and GPUs, true or false")
    ] = False
    grpc_address: Annotated[Address, Meta(description="where gRPC is served, HOST:PORT or unix:/path")] = (
        Address("127.0.0.1", 7070)
    )
    second_grpc_address: Annotated[
        Address | None,
        Meta(description="where gRPC is served, too, beside grpc_address; the first process serves it"),
    ] = None
    grpc_management_address: Annotated[
        Address,
        Meta(description="where TorchServe's management is served over gRPC, HOST:PORT or unix:/path"),
    ] = Address("127.0.0.1", 7071)
    grpc_max_connection_age: Annotated[
        Age, Meta(description="seconds after which a gRPC client must reconnect; 0 is never")
    ] = 0.0
    grpc_max_connection_age_grace: Annotated[
        Age, Meta(description="seconds that its calls get to finish then; 0 is no limit")
    ] = 0.0
    grpc_management_max_connection_age: Annotated[
        Age, Meta(description="the same age for the management over gRPC; 0 is never")
    ] = 0.0
    grpc_management_max_connection_age_grace: Annotated[
        Age, Meta(description="the same grace for the management over gRPC; 0 is no limit")
    ] = 0.0
    enable_grpc_ssl: Annotated[bool, Meta(description="whether gRPC is served over TLS, true or false")] = (
        False
    )
    grpc_max_message_size: Annotated[
        Count, Meta(description="bytes of the largest gRPC message, received or sent; 0 is no limit")
    ] = 0
    grpc_max_request_size: Annotated[
        Count,
        Meta(
            description="bytes of the largest gRPC message that is received; 0 is no limit of its own, and under"
            " mooring torchserve max_request_size"
        ),
    ] = 0
    certificate_file: Annotated[
        Folder, Meta(description="the server's certificate with its chain, PEM, for https and gRPC over TLS")
    ] = None
    private_key_file: Annotated[
        Folder, Meta(description="the key of the server's certificate, PEM, not encrypted")
    ] = None
    keystore: Annotated[
        Folder, Meta(description="certificate and key in one PKCS12 file, in place of the PEM files")
    ] = None
    keystore_pass: Annotated[Secret, Meta(description="the keystore's password; changeit without")] = Secret(
        "changeit"
    )
    keystore_type: Annotated[
        str,
        Meta(description="the keystore's form: PKCS12; JKS is refused, with the command that converts it"),
    ] = "PKCS12"
    client_ca_file: Annotated[
        Folder,
        Meta(
            description="PEM certificates of authorities: clients over TLS must present a certificate issued by one of them"
        ),
    ] = None
    show_errors: Annotated[
        Switch,
        Meta(
            description="whether clients of /predictions, /explanations and TorchServe's gRPC are told why a model's own code"
            " failed, true or false; by default where only this machine reaches the inference addresses of HTTP and gRPC"
        ),
    ] = None
    failed_prediction_status: Annotated[
        Literal[500, 503],
        Meta(
            description="how a failure of a model's own code is answered by /predictions and /explanations: 500, or 503 as in"
            " TorchServe, as mooring torchserve has it"
        ),
    ] = 500
    cors_allowed_origin: Annotated[
        Names,
        Meta(
            description="web sites whose pages may send requests: *, or scheme://HOST[:PORT], comma-separated"
        ),
    ] = ()
    trusted_hosts: Annotated[
        Names,
        Meta(
            description="names of this server beside those of this machine, such as that of a proxy in front of it,"
            " comma-separated: on an address that only this machine reaches, and that needs neither a token nor TLS, models are"
            " managed, and the console is read, only by requests whose Host header names one of them"
        ),
    ] = ()
    cors_allowed_methods: Annotated[
        Names, Meta(description="methods that such pages may use, comma-separated")
    ] = ()
    cors_allowed_headers: Annotated[
        Names, Meta(description="headers that such pages may send, comma-separated")
    ] = ()
    keep_alive_timeout: Annotated[
        Seconds,
        Meta(
            description="seconds that an idle connection over HTTP is kept for its next request; longer than the load"
            " balancer in front keeps it, or a request may arrive while the connection is closed"
        ),
    ] = 75.0
    root_path: Annotated[
        RootPath,
        Meta(
            description="prefix of all paths behind an ingress, /triton; requests under it are served as those without"
        ),
    ] = ""
    model_store: Annotated[Folder, Meta(description="folder with model archives")] = None
    workflow_store: Annotated[
        Folder, Meta(description="folder with workflow archives (.war); the model store by default")
    ] = None
    models: Annotated[
        Names,
        Meta(
            description="archives of the model store to load: all, or ARCHIVE or NAME=ARCHIVE, comma-separated; a workflow's"
            " (.war) is registered"
        ),
    ] = ()
    require_models: Annotated[
        bool,
        Meta(
            description="whether a start ends when an archive that models names is missing or broken, true or false; with"
            " false the others are served, and the server is ready without it, as mooring torchserve has it"
        ),
    ] = True
    model_settings: Annotated[
        Versions, Meta(description="settings by model and version, as JSON in TorchServe's form")
    ] = {}
    model_snapshot: Annotated[
        Snapshot | None,
        Meta(
            description="the models to load in place of those that models names, as in TorchServe's snapshots"
        ),
    ] = None
    snapshot_folder: Annotated[
        Folder,
        Meta(
            description="folder for snapshots of the served models in TorchServe's form, one after every change;"
            " none are written without"
        ),
    ] = None
    cache_folder: Annotated[
        Folder,
        Meta(
            description="folder for the results of trials of model files, kept over restarts; mooring in"
            " XDG_CACHE_HOME or ~/.cache by default; where it cannot be written, nothing is kept"
        ),
    ] = None
    model_repository: Annotated[
        Folders,
        Meta(
            description="folders of models, NAME/config.toml and NAME/1/model.py, comma-separated; a name may be in one of"
            " them only"
        ),
    ] = ()
    repository_load_existing: Annotated[
        bool, Meta(description="whether every model of the repository is loaded at the start, true or false")
    ] = True
    startup_models: Annotated[
        Names,
        Meta(description="models of the repository to load at the start in place of all, comma-separated"),
    ] = ()
    exit_on_error: Annotated[
        bool,
        Meta(
            description="whether the server ends with status 1 where a model cannot be loaded at the start, true or false"
        ),
    ] = False
    keep_going: Annotated[
        bool,
        Meta(
            description="whether a start goes on where a model that a target names cannot be loaded, true or false: the others"
            " are served, and it is tried again when its files change, as with reload; with false the server ends with status 1 at once"
        ),
    ] = False
    console: Annotated[
        bool,
        Meta(
            description="whether the page that shows and manages the server is served, at /console on the inference"
            " address, true or false"
        ),
    ] = True
    enable_repository_api: Annotated[
        bool,
        Meta(
            description="whether clients may load and unload models of the repository, and AMD's workers, true or false"
        ),
    ] = True
    enable_management_api: Annotated[
        bool,
        Meta(description="whether TorchServe's management is served, over HTTP and gRPC, true or false"),
    ] = True
    strict_readiness: Annotated[
        bool,
        Meta(
            description="whether the server is ready only while every model that it was started with can answer, true or"
            " false; false is ready once each has been loaded or has failed to"
        ),
    ] = True
    allowed_urls: Annotated[
        Names,
        Meta(
            description="where archives may be fetched from: regular expressions for whole URLs, comma-separated"
        ),
    ] = ()
    use_env_allowed_urls: Annotated[
        bool, Meta(description="whether the variable TS_ALLOWED_URLS wins over allowed_urls, true or false")
    ] = False
    enable_envvars_config: Annotated[
        bool,
        Meta(
            description="whether variables win over the file and flags that are called as TorchServe's keys,"
            " TS_JOB_QUEUE_SIZE, true or false"
        ),
    ] = False
    enable_model_api: Annotated[
        Switch,
        Meta(
            description="whether models may be registered and unregistered on the management port, true or false; "
            "by default where only this machine reaches it"
        ),
    ] = None
    repository_monitoring: Annotated[
        bool, Meta(description="whether the repository is followed while serving, true or false")
    ] = False
    repository_polling: Annotated[
        bool,
        Meta(description="whether the repository is polled for changes, as network file systems need it"),
    ] = False
    dialect: Annotated[
        Literal["v2", "amd", "triton"],
        Meta(
            description="how /v2 is spoken: v2, or amd or triton where those servers differ; triton adds Triton's metrics"
        ),
    ] = "v2"
    server_name: Annotated[
        str,
        Meta(description="what the server calls itself under /v2; the name that the dialect has by default"),
    ] = ""
    grpc_typed_outputs: Annotated[
        Switch,
        Meta(
            description="whether ModelInfer answers a request with typed contents with typed contents, true or false; by"
            " default only in the dialect amd, and all others get raw contents"
        ),
    ] = None
    # 0 is not one per CPU as TorchServe has it: that default fills a laptop's memory with copies of every model (its
    # issues 2432, 2128, 2905), where they do not share one. A value above 0 means the same in both.
    default_workers_per_model: Annotated[
        Count,
        Meta(
            description="worker processes of a model that sets no number; 0 is one, and one for each core but at most four"
            " of a file of PyTorch or ONNX where there is no accelerator: those share its memory"
        ),
    ] = 0
    max_worker_processes: Annotated[
        Count,
        Meta(
            description="worker processes of all models together; a model that wants more is refused; 0 is as many as"
            " cores, memory, processes and file descriptors of this machine allow"
        ),
    ] = 0
    scale_to_zero_processes: Annotated[
        Count | None,
        Meta(
            description="how many processes all models may have; above it, idle PyTorch and ONNX files that set"
            " no number of workers are scaled to zero: ready, without a process until they are asked; by default 64 for"
            " each core; 0 is no limit"
        ),
    ] = None
    scale_to_zero_memory: Annotated[
        Count | None,
        Meta(
            description="how many bytes of memory the processes of all models may take; above it, idle models are scaled to"
            " zero in the same way; by default half of the memory; 0 is no limit"
        ),
    ] = None
    target_queue_ms: Annotated[
        Age,
        Meta(
            description="milliseconds that 95 of 100 requests should wait for a worker at most: a model whose range of workers"
            " leaves a choice gets more while they wait longer, and fewer later on; 0 is no target, and the number stays as it is"
        ),
    ] = 0.0
    scaling_window: Annotated[
        Seconds,
        Meta(
            description="seconds over which waiting and work are measured, where a model has target_queue_ms"
        ),
    ] = 10.0
    scaling_cool_down: Annotated[
        Seconds,
        Meta(
            description="seconds for which fewer workers must have been enough before some are stopped, where a model has"
            " target_queue_ms"
        ),
    ] = 60.0
    default_response_timeout: Annotated[Seconds, Meta(description="seconds a model may take to answer")] = (
        120.0
    )
    default_startup_timeout: Annotated[Seconds, Meta(description="seconds a model may take to load")] = 120.0
    heartbeat_timeout: Annotated[
        Age,
        Meta(
            description="seconds after which a process of the server that is frozen is ended and replaced: a template or a"
            " frontend process that does not answer, a worker that a signal has stopped; 0 is never, for debugging"
        ),
    ] = 10.0
    unregister_model_timeout: Annotated[
        Seconds, Meta(description="seconds that a model's requests get to finish when it is unregistered")
    ] = 120.0
    max_requests_per_worker: Annotated[
        Count,
        Meta(description="requests after which a worker is replaced by a fresh one; 0 is never"),
    ] = 0
    worker_memory_limit: Annotated[
        Count,
        Meta(
            description="bytes of memory at which a worker is replaced by a fresh one, and twice that ends it at once;"
            " 0 is no limit"
        ),
    ] = 0
    job_queue_size: Annotated[
        Annotated[int, Meta(ge=1)], Meta(description="requests that may wait for a model, at least 1")
    ] = 100
    max_request_size: Annotated[Bytes, Meta(description="bytes of the largest request body")] = 6_553_500
    max_tensor_request_size: Annotated[
        Bytes, Meta(description="bytes of the largest request to the Open Inference Protocol (/v2)")
    ] = 1_073_741_824
    max_response_size: Annotated[Bytes, Meta(description="bytes of the largest answer")] = 6_553_500
    json_nan: Annotated[
        Literal["by_protocol", "null", "nan"],
        Meta(
            description="how answers in JSON write NaN and Infinity, for which JSON has no number: by_protocol (null"
            " under /v1 and from /predictions of tensor models, NaN under /v2), or null or nan everywhere"
        ),
    ] = "by_protocol"
    ping_format: Annotated[
        Literal["both", "status"],
        Meta(
            description="what /ping answers: both (TorchServe 0.12's status, and health, as its first versions), or status"
            " alone, for clients that compare the whole body"
        ),
    ] = "both"
    decode_input_request: Annotated[
        bool, Meta(description="whether handlers get JSON and text bodies decoded, true or false")
    ] = True
    limit_max_image_pixels: Annotated[
        bool, Meta(description="whether Pillow refuses huge images, true or false")
    ] = True
    forward_headers: Annotated[
        str,
        Meta(
            description="headers of requests that become parameters of functions and of Triton's Python models: a regular"
            " expression for a part of their names, in any case"
        ),
    ] = ""
    service_envelope: Annotated[
        Literal["", "body", "json", "kserve", "kservev2"],
        Meta(description="TorchServe's envelope around every handler: body, json, kserve or kservev2"),
    ] = ""
    default_service_handler: Annotated[
        str, Meta(description="the handler of an archive that names none, as in image_classifier")
    ] = ""
    blacklist_env_vars: Annotated[
        str, Meta(description="variables that workers do not see: a regular expression for whole names")
    ] = ""
    device: Annotated[
        str,
        Meta(
            description="where models run: cpu, gpu (all GPUs), or the numbers of GPUs, 0,1; it wins over number_of_gpu; by"
            " default all GPUs where there are any"
        ),
    ] = ""
    number_of_gpu: Annotated[Count | None, Meta(description="GPUs that workers see; all by default")] = None
    initial_worker_port: Annotated[
        Count, Meta(description="the number of the first worker, which is a port in TorchServe")
    ] = 9000
    sequence_id_header: Annotated[
        Header, Meta(description="the header that names the sequence of a request, as TorchServe has it")
    ] = "ts_request_sequence_id"
    sequence_start_header: Annotated[
        Header, Meta(description="the header that says that a request is the first of its sequence")
    ] = "ts_request_sequence_start"
    sequence_end_header: Annotated[
        Header, Meta(description="the header that says that a request is the last of its sequence")
    ] = "ts_request_sequence_end"
    install_py_dep_per_model: Annotated[
        bool,
        Meta(
            description="whether a model's requirements.txt is installed into a folder of its own, true or false"
        ),
    ] = False
    exact_batch_delay: Annotated[
        bool,
        Meta(description="whether a lone request waits out the batch delay as in TorchServe, true or false"),
    ] = False
    arena_size: Annotated[
        Annotated[int, Meta(ge=65_536)],
        Meta(
            description="bytes of shared memory for large bodies, at least 65536, rounded up to a power of two; by default less"
            " where the server may use less than 2 GiB of memory: an eighth of it, which frontends divide"
        ),
    ] = 268_435_456
    frontends: Annotated[
        Annotated[int, Meta(ge=1, le=24)],
        Meta(
            description="processes that take connections to the inference addresses of HTTP and gRPC, 1 to 24"
        ),
    ] = 1
    deal_connections: Annotated[
        Literal["by_load", "evenly"],
        Meta(
            description="with frontends above 1, by_load (the first process has all connections until its loop is full"
            " while cores are idle; then plain HTTP connections migrate, and new ones over TLS and gRPC go to the others)"
            " or evenly (the kernel spreads new connections over all processes)"
        ),
    ] = "by_load"
    codec_processes: Annotated[
        Count | None,
        Meta(
            description="processes, started when they are first needed, that read and write large JSON tensors while the"
            " workers of their model are busy; by default one for each core but one and at most 4; with 0 only one, and"
            " only for large JSON to chains, to ensembles and to models with sequences, and for other bodies to ensembles"
        ),
    ] = None
    max_body_memory: Annotated[
        Count,
        Meta(
            description="bytes that request bodies of all protocols together may take beyond arena_size in each process"
            " that takes connections, counted as they arrive; further requests are refused (503, RESOURCE_EXHAUSTED);"
            " 0 is no limit; by default less where the server may use less than 4 GiB of memory: a quarter of it, which"
            " frontends divide"
        ),
    ] = 1_073_741_824
    response_cache_size: Annotated[
        Count,
        Meta(
            description="bytes of the answers that are kept for models whose configuration says response_cache, all models"
            " together; each of several frontends has its share; 0 keeps none"
        ),
    ] = 67_108_864
    min_body_rate: Annotated[
        Count,
        Meta(
            description="bytes a second that a request body must bring, measured over 30 seconds; slower ones are ended"
            " (408, DEADLINE_EXCEEDED); 0 is no such limit"
        ),
    ] = 500
    body_time_limit: Annotated[
        Age, Meta(description="seconds in which a whole request body must arrive; 0 is no limit")
    ] = 3600.0
    drain_timeout: Annotated[
        Seconds, Meta(description="seconds that running requests get to finish at shutdown")
    ] = 30.0
    pre_stop_delay: Annotated[
        Annotated[float, Meta(ge=0)],
        Meta(
            description="seconds at shutdown in which the server reports not ready but still serves, for load"
            " balancers to notice, before it refuses new requests and drain_timeout begins"
        ),
    ] = 0.0
    temporary_folder: Annotated[
        Folder, Meta(description="folder for extracted archives and sockets; the system's by default")
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="how much is logged: debug, info, warning or error"),
    ] = "info"
    log_format: Annotated[
        Literal["text", "json", "torchserve"],
        Meta(
            description="the form of the log: text, json (one object per line), or torchserve, whose lines are"
            " TorchServe's"
        ),
    ] = "text"
    access_log: Annotated[
        bool, Meta(description="whether there is a line in the log for every request, true or false")
    ] = False
    server_timing: Annotated[
        bool,
        Meta(
            description="whether every answer of a model says where the time went, in the header Server-Timing, true or false"
        ),
    ] = False
    log_file: Annotated[
        Folder,
        Meta(description="file that the log is appended to in place of standard error"),
    ] = None
    log_folder: Annotated[
        Folder,
        Meta(
            description="folder for TorchServe's log files, beside standard output: ts_log.log, model_log.log and"
            " access_log.log; without it the log is on standard error"
        ),
    ] = None
    log_config: Annotated[
        Folder,
        Meta(
            description="a configuration of log4j, as TorchServe has it, that says what is logged where, in place of"
            " log_folder and log_format"
        ),
    ] = None
    vmargs: Annotated[
        str,
        Meta(
            description="TorchServe's arguments for Java: -Dlog4j.configurationFile=FILE is log_config, and that file"
            " may look other properties up"
        ),
    ] = ""
    insecure: Annotated[
        bool,
        Meta(description="whether anybody may manage models on an address beyond loopback, true or false"),
    ] = False
    token_authorization: Annotated[
        Literal["off", "on", "elsewhere", "management"],
        Meta(
            description="whether clients need tokens, generated at the start into key_file.json: off, on, elsewhere, which"
            " demands them at the addresses that other machines reach and refuses only wrong ones at the others, or"
            " management, which does so for managing models alone"
        ),
    ] = "off"  # noqa: S105 - a mode, and no password
    unauthorized_status: Annotated[
        Literal[401, 400],
        Meta(
            description="how a missing or wrong token is answered: 401, or 400 with TorchServe's body, as"
            " mooring torchserve has it"
        ),
    ] = 401
    token_expiration_min: Annotated[
        Seconds, Meta(description="minutes that a generated token lasts until it is renewed")
    ] = 60.0
    inference_token: Annotated[
        Secret, Meta(description="a fixed token that inference needs; best given in the environment")
    ] = Secret()
    inference_token_file: Annotated[
        Folder, Meta(description="file with that token, read again when it has changed")
    ] = None
    management_token: Annotated[
        Secret, Meta(description="a fixed token that managing models needs; best given in the environment")
    ] = Secret()
    management_token_file: Annotated[
        Folder, Meta(description="file with that token, read again when it has changed")
    ] = None
    protect_metrics: Annotated[
        bool,
        Meta(description="whether reading metrics needs a token, too, where there are any, true or false"),
    ] = False

    cluster: Annotated[
        str,
        Meta(
            description="the Ray cluster on which the models are served: HOST:PORT of its head, or auto for the one that this"
            " machine belongs to; it needs mooring[ray]. Without it this machine serves alone"
        ),
    ] = ""
    cluster_name: Annotated[
        ClusterName,
        Meta(description="the name of what is served there, where one Ray cluster has several Moorings"),
    ] = "mooring"
    cluster_nodes: Annotated[
        Names,
        Meta(
            description="which of Ray's nodes serve: LABEL=TEXT, all of which a node must have, or addresses of nodes,"
            " comma-separated; all by default"
        ),
    ] = ()
    cluster_state: Annotated[
        str,
        Meta(
            description="where the cluster keeps what it is to serve: a folder that every node reaches by this path, or s3://,"
            " gs:// or az://; by default a folder of the machine that the controller runs on, which is lost with it"
        ),
    ] = ""
    cluster_dir: Annotated[
        Folder,
        Meta(
            description="folder of each node for its server's socket, log and model files; mooring-UID among the temporary files"
            " by default"
        ),
    ] = None
    cluster_idle_timeout: Annotated[
        Age,
        Meta(
            description="seconds after which a node without a replica is given back to Ray's autoscaler, which may end it then:"
            " its server answers what it has, and ends; 0 is never, and every node serves whoever asks it"
        ),
    ] = 0.0
    cluster_files_size: Annotated[
        int,
        Meta(
            ge=0,
            description="bytes that model files may take on each node of a cluster, in the folder files of cluster_dir; what no model"
            " uses goes first; 0 is any number",
        ),
    ] = 100 << 30
    cluster_socket: Annotated[
        Folder,
        Meta(
            description="where this server listens for its node actor: a server with it is a node of a cluster, and the command"
            " that serves a cluster gives it to the servers that it starts"
        ),
    ] = None

    @property
    def shows_errors(self) -> bool:
        """Whether clients are told why a model's own code failed."""
        if self.show_errors is not None:
            return self.show_errors
        return all(address.loopback for address in self.inference_addresses)

    @property
    def inference_addresses(self) -> list[Address]:
        """The addresses at which inference is served, over HTTP and gRPC."""
        found = (
            self.inference_address,
            self.second_inference_address,
            self.grpc_address,
            self.second_grpc_address,
        )
        return [address for address in dict.fromkeys(found) if address is not None]

    @property
    def generates_tokens(self) -> bool:
        """Whether the server generates tokens for what has no fixed one."""
        return self.token_authorization != "off"  # noqa: S105 - a mode, and no password

    @property
    def guards_management_alone(self) -> bool:
        """Whether the generated tokens are for managing models, and no prediction needs one."""
        return self.token_authorization == "management"  # noqa: S105 - a mode, and no password

    def demands_tokens(self, address: Address) -> bool:
        """Whether calls need the generated tokens at this address; at others only wrong ones are refused.

        The address decides and not the peer: behind a proxy on the same machine every peer is on loopback.
        """
        if self.token_authorization in ("elsewhere", "management"):
            return not address.loopback
        return self.generates_tokens

    @property
    def demanding_addresses(self) -> list[Address]:
        """The addresses at which calls need the generated tokens."""
        addresses = (
            *self.inference_addresses,
            self.management_address,
            self.grpc_management_address,
        )
        return [address for address in dict.fromkeys(addresses) if self.demands_tokens(address)]

    @property
    def guards_management(self) -> bool:
        """Whether managing models needs a token where other machines reach it."""
        return self.generates_tokens or bool(self.management_token) or self.management_token_file is not None

    def guarded(self, address: Address) -> bool:
        """Whether models at this address are managed only from this machine, with a token or certificate, or openly by choice."""
        certified = address.secure and self.client_ca_file is not None
        return address.loopback or certified or self.guards_management or self.insecure


DEFAULTS = Config()
"""Every setting with its default."""

KINDS: Mapping[str, Any] = get_type_hints(Config)
"""The type of every setting without its limits; it decides how a text is read."""

TYPES: Mapping[str, Any] = get_type_hints(Config, include_extras=True)
"""The type of every setting with its limits."""

SETTINGS: Mapping[str, str] = {name: hint.__metadata__[-1].description for name, hint in TYPES.items()}
"""The description of every setting, in a line."""


SHORT_FLAGS: Mapping[str, str] = {"default_workers_per_model": "--workers"}
"""Flags that others have for a setting, beside that of its own name."""


def is_switch(name: str) -> bool:
    """Whether a setting is either on or off."""
    return KINDS[name] in (bool, Switch)


def is_list(name: str) -> bool:
    """Whether a setting has any number of values."""
    return KINDS[name] in (Names, Folders)


def is_secret(name: str) -> bool:
    """Whether a setting is a secret. A secret is no flag, since everybody on the machine sees those."""
    return KINDS[name] is Secret
