"""Every flag of Triton's command line, and what it does here: the table that the command and the guide go by."""

import enum
from dataclasses import dataclass


class Effect(enum.StrEnum):
    """Whether a flag is obeyed, is accepted without effect, or ends the start."""

    OBEYED = "obeyed"
    NONE = "without effect"
    REFUSED = "refused"


class Kind(enum.StrEnum):
    """What stands behind a flag. A SWITCH stands alone."""

    BOOL = "true or false"
    INTEGER = "a whole number"
    NUMBER = "a number"
    TEXT = "a text"
    SWITCH = "nothing"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. ``note`` says what it does, or why it does nothing or is refused. A refused BOOL may be false."""

    name: str
    kind: Kind
    effect: Effect
    note: str
    repeatable: bool = False

    @property
    def text(self) -> str:
        """The note, with the effect in front where the flag is not obeyed."""
        return self.note if self.effect is Effect.OBEYED else f"{self.effect}: {self.note}"


def _obeyed(name: str, kind: Kind, note: str, *, repeatable: bool = False) -> Flag:
    return Flag(name, kind, Effect.OBEYED, note, repeatable)


def _ignored(name: str, kind: Kind, note: str, *, repeatable: bool = False) -> Flag:
    return Flag(name, kind, Effect.NONE, note, repeatable)


def _refused(name: str, kind: Kind, note: str, *, repeatable: bool = False) -> Flag:
    return Flag(name, kind, Effect.REFUSED, note, repeatable)


_BOOL, _INTEGER, _NUMBER, _TEXT, _SWITCH = Kind.BOOL, Kind.INTEGER, Kind.NUMBER, Kind.TEXT, Kind.SWITCH
_TRACES = "no trace is written"
_LOADS = "models load at the same time, as many as there are cores"
_PINGS = "connections are kept open without pings of the server's own, and pings of clients are answered"
_RESTRICTED = (
    "restrictions by a header are not here; MOORING_MANAGEMENT_TOKEN and MOORING_INFERENCE_TOKEN guard calls"
)
_GPU_MEMORY = "the memory of GPUs is the libraries' to manage"
_SAGEMAKER = "SageMaker's interface is not here"
_VERTEX = "Vertex AI's interface is not here"
_ONE_SERVER = "one server has a port; `mooring serve --frontends` lets several processes take its connections"
_BACKENDS = "the backends are part of the server"

TRITON_FLAGS: tuple[Flag, ...] = (
    _obeyed("id", _TEXT, "what the server calls itself; triton"),
    _obeyed("exit-timeout-secs", _INTEGER, "seconds that running requests get when the server ends; 30"),
    _obeyed("log-verbose", _TEXT, "a number from 1, or true: everything is logged"),
    _obeyed("log-info", _BOOL, "false: warnings and errors are logged"),
    _obeyed("log-warning", _BOOL, "false, with `--log-info=false`: errors are logged"),
    _ignored("log-error", _BOOL, "errors are always logged"),
    _ignored("log-format", _TEXT, "the log has a form of its own"),
    _obeyed("log-file", _TEXT, "the file for the log, in place of standard error"),
    _obeyed(
        "model-repository",
        _TEXT,
        "a folder of models; a name that is in several is served from none",
        repeatable=True,
    ),
    _obeyed("model-store", _TEXT, "the same", repeatable=True),
    _obeyed(
        "exit-on-error",
        _BOOL,
        "whether the server ends with status 1 if a model cannot be loaded at the start; true",
    ),
    _ignored(
        "disable-auto-complete-config", _SWITCH, "what a configuration leaves out is read from the model"
    ),
    _ignored("strict-model-config", _BOOL, "what a configuration leaves out is read from the model"),
    _obeyed("strict-readiness", _BOOL, "whether the server is ready only while all models are; true"),
    _obeyed(
        "model-control-mode",
        _TEXT,
        "none (clients load and unload nothing), poll (the repository is followed) or explicit (clients do); none",
    ),
    _ignored("repository-poll-secs", _INTEGER, "with poll a change is noticed within a second"),
    _obeyed(
        "load-model", _TEXT, "with explicit, a model to load at the start, or `*` for all", repeatable=True
    ),
    _ignored("model-load-thread-count", _INTEGER, _LOADS),
    _ignored("model-load-retry-count", _INTEGER, "a model whose workers fail is tried again anyway"),
    _refused("model-namespacing", _BOOL, "two models cannot have one name"),
    _obeyed("allow-http", _BOOL, "false: REST is served on a private unix socket alone"),
    _obeyed("http-address", _TEXT, "where REST is served; 0.0.0.0"),
    _obeyed("http-port", _INTEGER, "its port; 8000"),
    _refused("reuse-http-port", _BOOL, _ONE_SERVER),
    _obeyed(
        "http-header-forward-pattern",
        _TEXT,
        "headers that become parameters of a request, over both protocols",
    ),
    _ignored("http-thread-count", _INTEGER, "one event loop serves all connections"),
    _obeyed("http-max-input-size", _INTEGER, "bytes of the largest request; 1 GiB"),
    _refused("http-restricted-api", _TEXT, _RESTRICTED, repeatable=True),
    _obeyed("allow-grpc", _BOOL, "false: gRPC is served on a private unix socket alone"),
    _obeyed("grpc-address", _TEXT, "where gRPC is served; 0.0.0.0"),
    _obeyed("grpc-port", _INTEGER, "its port; 8001"),
    _refused("reuse-grpc-port", _BOOL, _ONE_SERVER),
    _obeyed("grpc-header-forward-pattern", _TEXT, "the same; of two patterns either may match"),
    _ignored("grpc-infer-allocation-pool-size", _INTEGER, "memory for requests is taken as they come"),
    _obeyed("grpc-use-ssl", _BOOL, "whether gRPC is served over TLS; false"),
    _obeyed(
        "grpc-use-ssl-mutual", _BOOL, "the same, and clients must show a certificate of `--grpc-root-cert`"
    ),
    _obeyed("grpc-server-cert", _TEXT, "the server's certificate, PEM"),
    _obeyed("grpc-server-key", _TEXT, "its key, PEM"),
    _obeyed(
        "grpc-root-cert", _TEXT, "with `--grpc-use-ssl-mutual`, the authorities of clients' certificates"
    ),
    _ignored(
        "grpc-infer-response-compression-level", _TEXT, "answers are compressed only where a client's call is"
    ),
    _ignored("grpc-keepalive-time", _INTEGER, _PINGS),
    _ignored("grpc-keepalive-timeout", _INTEGER, _PINGS),
    _ignored("grpc-keepalive-permit-without-calls", _BOOL, _PINGS),
    _ignored("grpc-http2-max-pings-without-data", _INTEGER, _PINGS),
    _ignored("grpc-http2-min-recv-ping-interval-without-data", _INTEGER, _PINGS),
    _ignored("grpc-http2-max-ping-strikes", _INTEGER, _PINGS),
    _obeyed("grpc-max-connection-age", _INTEGER, "milliseconds after which a client must reconnect"),
    _obeyed("grpc-max-connection-age-grace", _INTEGER, "milliseconds that its calls get then"),
    _refused("grpc-restricted-protocol", _TEXT, _RESTRICTED, repeatable=True),
    _refused("allow-sagemaker", _BOOL, _SAGEMAKER),
    _ignored("sagemaker-port", _INTEGER, _SAGEMAKER),
    _ignored("sagemaker-safe-port-range", _TEXT, _SAGEMAKER),
    _ignored("sagemaker-thread-count", _INTEGER, _SAGEMAKER),
    _refused("allow-vertex-ai", _BOOL, _VERTEX),
    _ignored("vertex-ai-port", _INTEGER, _VERTEX),
    _ignored("vertex-ai-thread-count", _INTEGER, _VERTEX),
    _ignored("vertex-ai-default-model", _TEXT, _VERTEX),
    _obeyed("allow-metrics", _BOOL, "whether metrics are served; true"),
    _ignored(
        "allow-gpu-metrics", _BOOL, "GPUs are shown if there are any and `--allow-cpu-metrics` is not false"
    ),
    _obeyed("allow-cpu-metrics", _BOOL, "whether metrics show CPU, memory and GPUs; true"),
    _obeyed("metrics-address", _TEXT, "where metrics are served; where REST is"),
    _obeyed("metrics-port", _INTEGER, "their port; 8002"),
    _ignored("metrics-interval-ms", _NUMBER, "metrics are measured when they are asked for"),
    _ignored(
        "metrics-config",
        _TEXT,
        "counters are shown as always; summaries and histograms are not",
        repeatable=True,
    ),
    _ignored("trace-config", _TEXT, _TRACES, repeatable=True),
    _ignored("trace-file", _TEXT, _TRACES),
    _ignored("trace-level", _TEXT, _TRACES, repeatable=True),
    _ignored("trace-rate", _INTEGER, _TRACES),
    _ignored("trace-count", _INTEGER, _TRACES),
    _ignored("trace-log-frequency", _INTEGER, _TRACES),
    _ignored("backend-directory", _TEXT, _BACKENDS),
    _ignored(
        "backend-config", _TEXT, "a model's own configuration says how its backend runs it", repeatable=True
    ),
    _ignored("repoagent-directory", _TEXT, "agents are not run; a model that names one is refused"),
    _obeyed(
        "cache-config",
        _TEXT,
        "`local,size=BYTES`: answers of models with `response_cache` are kept; no other cache is here",
        repeatable=True,
    ),
    _obeyed("response-cache-byte-size", _INTEGER, "the same, in bytes"),
    _ignored("cache-directory", _TEXT, "the cache is part of the server"),
    _ignored("rate-limit", _TEXT, "an instance runs as soon as it is idle"),
    _ignored("rate-limit-resource", _TEXT, "an instance runs as soon as it is idle", repeatable=True),
    _ignored("pinned-memory-pool-byte-size", _INTEGER, _GPU_MEMORY),
    _ignored("cuda-memory-pool-byte-size", _TEXT, _GPU_MEMORY, repeatable=True),
    _ignored("cuda-virtual-address-size", _TEXT, _GPU_MEMORY, repeatable=True),
    _ignored("min-supported-compute-capability", _NUMBER, "the libraries say which GPUs they run on"),
    _ignored("model-load-gpu-limit", _TEXT, _GPU_MEMORY, repeatable=True),
    _ignored("buffer-manager-thread-count", _INTEGER, "tensors are copied where they are made"),
    _ignored("host-policy", _TEXT, "the system chooses the cores of a worker", repeatable=True),
)
