"""How the HTTP listeners of a process are made out of the settings: the same in the first process and in every frontend process."""

import ssl
from collections.abc import Callable, Sequence

from mooring.config.settings import Address, Config
from mooring.console.endpoints import PATH as CONSOLE_PATH
from mooring.core.buffers import Allocator
from mooring.observability.metrics import Metrics
from mooring.protocols.access import Gate
from mooring.protocols.application import Application, NotFound, OverloadCheck, https_only
from mooring.protocols.cors import Cors
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.inflater import Inflater
from mooring.protocols.origins import Sites
from mooring.protocols.responses import Responses
from mooring.protocols.status import NOT_FOUND, FaultWords
from mooring.tokens import Access, TokenTable
from mooring.web.certificates import Certificates
from mooring.web.http1 import App, HttpServer, Limits


def limits_of(config: Config) -> Limits:
    """What one client may cost, over HTTP and gRPC."""
    # TorchServe's clients count on its small limit, Triton's know of none.
    most = max(config.max_request_size, config.max_tensor_request_size)
    return Limits(
        max_body_bytes=config.max_request_size,
        larger_bodies=((b"/v2/", most),),
        idle_timeout=config.keep_alive_timeout,
        min_body_rate=config.min_body_rate,
        body_time_limit=config.body_time_limit,
    )


class Listeners:
    """Makes them. What they share is here: the responses, who may do what, and what pages of other sites are told."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        allocator: Allocator,
        tokens: TokenTable | None,
        certificates: Certificates | None,
    ) -> None:
        # AMD's server lets every page read its answers, and does not ask.
        origins = config.cors_allowed_origin or (("*",) if config.dialect == "amd" else ())
        self.cors = Cors(origins, config.cors_allowed_methods, config.cors_allowed_headers)
        self.calls = metrics.calls
        self.traffic = metrics.traffic
        self.responses = Responses(
            metrics.responses,
            cors=self.cors.headers,
            reserved_headers=self.cors.reserved_headers,
            header_lines_for=self.cors.header_lines_for,
            json_nan=config.json_nan,
            faults=FaultWords(config.shows_errors, config.failed_prediction_status),
        )
        self._config = config
        self.root = config.root_path.rstrip("/")  # the prefix of all paths behind an ingress
        self.console = f"{self.root}{CONSOLE_PATH}" if config.console else ""
        self._allocator = allocator
        self._tokens = tokens
        self._certificates = certificates
        # TorchServe's clients count on its small limit, Triton's know of none.
        self._limits = limits_of(config)

    def gate(self, address: Address) -> Gate:
        """What clients of this address need. Who reaches it from elsewhere without a token may not manage models."""
        config = self._config
        return Gate(
            self._tokens,
            closed=not config.guarded(address),
            protect_metrics=config.protect_metrics,
            demanded=config.demands_tokens(address),
            status=config.unauthorized_status,
        )

    def _sites(self, address: Address) -> Sites:
        # Elsewhere a name that a site has pointed at this machine gets it nothing: its page has no token and no certificate.
        guarded = address.secure or self.gate(address).needs_token(Access.MANAGEMENT)
        loopback = address.loopback and not self._config.insecure and not guarded
        return Sites(
            loopback=loopback,
            checks_host=loopback and not address.path,  # no browser reaches a unix socket
            own_host=address.host.lower(),
            hosts=frozenset(self._config.trusted_hosts),
            origins=self.cors.named_origins,
            any_origin=self.cors.any_origin,
        )

    def rpc_tls(self, address: Address) -> Callable[[], ssl.SSLContext] | None:
        """The TLS of a gRPC listener; None where it speaks none."""
        certificates = self._certificates
        return certificates.current_rpc if address.secure and certificates and not address.path else None

    def listener(
        self,
        address: Address,
        endpoints: Sequence[Endpoint],
        overload_error: OverloadCheck | None,
        *,
        fallback_app: App | None = None,
        internal: bool = False,
        shared: bool = False,
        not_found: NotFound = lambda _target: NOT_FOUND,
    ) -> HttpServer:
        """Make a listener that serves these, and hands what they do not cover to ``fallback_app``. It is not started.

        ``not_found`` makes the 404 for a target that nothing here serves. An ``internal`` one is asked by another process
        of the server: it speaks no TLS and tells pages nothing, since the one before it does. The address of a ``shared`` one is served by several processes.
        """
        application = Application(
            endpoints,
            self.responses,
            gate=self.gate(address),
            sites=self._sites(address),
            overload_error=overload_error,
            fallback_app=fallback_app,
            inflater=Inflater(self.responses, self._allocator, self._limits),
            not_found=not_found,
            times_all=self._config.server_timing,
            timing_lines_for=(lambda _origin: b"") if internal else self.cors.timing_lines_for,
        )
        certificates = self._certificates
        return HttpServer(
            application if internal else self.cors.wrap_app(application),
            limits=self._limits,
            allocator=self._allocator,
            render_error=self.responses.format_refusal,
            admission_check=self.cors.wrap_admission_check(application.admission_check),
            tls=certificates.current if address.secure and certificates and not internal else None,
            plain=https_only(self.responses),
            calls=None if internal else self.calls,
            traffic=None if internal else self.traffic["http"],  # the process before it counts
            reuse_port=shared and reuse_port(self._config, address),
            migratable=shared and by_load(self._config) and not address.secure,
            root=b"" if internal else self.root.encode(),  # the process before it has taken the prefix away
        )


def by_load(config: Config) -> bool:
    """Whether frontend processes take connections only while the load asks for it."""
    return config.frontends > 1 and config.deal_connections == "by_load"


def reuse_port(config: Config, address: Address) -> bool:
    """Whether every process binds an address for itself, and the system deals the connections out."""
    return config.frontends > 1 and config.deal_connections == "evenly" and not address.path
