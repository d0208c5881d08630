"""Reads, checks and renews the certificates of every listener, HTTP and gRPC, and of the clients they let in."""

import ssl
import tempfile
from pathlib import Path

from mooring.config.settings import Config, ConfigError
from mooring.core.missing_packages import missing_package
from mooring.observability.logs import get_logger

log = get_logger(__name__)

RENEWAL = 3.0
"""Seconds between two looks at the files of certificates, of whoever calls ``Certificates.renew``."""

_ADDRESSES = (
    "inference_address",
    "second_inference_address",
    "management_address",
    "metrics_address",
    "grpc_address",
    "second_grpc_address",
    "grpc_management_address",
)


class Certificates:
    """The certificate files that the settings name, as TLS contexts.

    Raises ``ConfigError`` for files that no client could be served with. ``renew`` reads them again; connections made
    after it get what they hold then.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        named = (config.certificate_file, config.private_key_file, config.keystore, config.client_ca_file)
        self._files = [file for file in named if file is not None]
        self._seen = self._state()
        self.context, self.rpc_context = self._read()

    def current(self) -> ssl.SSLContext:
        """Return the context for a connection of HTTP/1.1 made now."""
        return self.context

    def current_rpc(self) -> ssl.SSLContext:
        """Return the context for a connection of gRPC, which is HTTP/2, made now."""
        return self.rpc_context

    def renew(self) -> None:
        """Read the files again if they have changed; those that cannot be used are logged, and nothing changes."""
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self.context, self.rpc_context = self._read()
        except ConfigError as error:
            # Likely the certificate is there and its key is not yet: they are read again when that comes.
            log.warning("certificates not renewed", reason=str(error))
        else:
            log.info("certificates renewed", files=[str(file) for file in self._files])

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [_state_of(file) for file in self._files]

    def _read(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        config = self._config
        pem = config.certificate_file, config.private_key_file
        label = (
            f"certificate_file {pem[0]} with private_key_file {pem[1]}"
            if config.certificate_file and config.private_key_file
            else f"keystore {config.keystore}"
        )
        chain, key = _read_own(config)
        ca = b"" if config.client_ca_file is None else _read_file("client_ca_file", config.client_ca_file)
        context, rpc = (_make_context(label, chain, key, protocol) for protocol in ("http/1.1", "h2"))
        if config.client_ca_file is not None:
            _require_client_certificate(context, ca, config.client_ca_file)
            _require_client_certificate(rpc, ca, config.client_ca_file)
        if objection := _client_objection(context, chain):
            log.warning("clients will refuse the server's certificate", certificate=label, reason=objection)
        return context, rpc


def certificates_of(config: Config) -> Certificates | None:
    """Return what the server's addresses need of them, None where none speaks TLS. Raises ``ConfigError``."""
    addresses = {name: getattr(config, name) for name in _ADDRESSES}
    secure = [name for name, address in addresses.items() if address is not None and address.secure]
    pem = {name: getattr(config, name) for name in ("certificate_file", "private_key_file")}
    if secure:
        if not all(pem.values()) and config.keystore is None:
            missing = " and ".join(name for name, file in pem.items() if file is None)
            raise ConfigError(
                f"{secure[0]} {getattr(config, secure[0])} needs a certificate:"
                f" set {missing} (PEM), or keystore (PKCS12)"
            )
        return Certificates(config)
    if config.client_ca_file is not None:  # somebody believes to be guarded
        raise ConfigError(
            "client_ca_file guards nothing: no address is https://, and enable_grpc_ssl is not set"
        )
    if idle := [name for name, file in (pem | {"keystore": config.keystore}).items() if file is not None]:
        log.warning("without effect: no address is https://, and enable_grpc_ssl is not set", settings=idle)
    return None


def _state_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read_own(config: Config) -> tuple[bytes, bytes]:
    """Return the server's certificates and its key, PEM. As in TorchServe, PEM files go before a keystore."""
    if config.certificate_file is not None and config.private_key_file is not None:
        chain = _read_file("certificate_file", config.certificate_file)
        key = _read_file("private_key_file", config.private_key_file)
        _check_pem(config.certificate_file, chain, config.private_key_file, key)
        if b"ENCRYPTED" in key:
            raise ConfigError(
                f"private_key_file {config.private_key_file} is encrypted, and the server cannot ask for its password:"
                f" openssl pkey -in {config.private_key_file} -out key.pem writes it without a password"
            )
        return chain, key
    assert config.keystore is not None  # the settings are checked for one of the two
    return _read_from_keystore(config, config.keystore)


_CERTIFICATE, _KEY = b"CERTIFICATE-----", b"PRIVATE KEY-----"


def _check_pem(certificate_file: Path, chain: bytes, key_file: Path, key: bytes) -> None:
    """Raise ``ConfigError`` where a file does not hold what its setting says; either may hold both."""
    if _CERTIFICATE not in chain and _KEY not in key and _KEY in chain and _CERTIFICATE in key:
        raise ConfigError(
            f"certificate_file {certificate_file} holds the private key, and private_key_file {key_file} the certificate:"
            " swap them"
        )
    for setting, file, content, mark, what in (
        ("certificate_file", certificate_file, chain, _CERTIFICATE, "certificate"),
        ("private_key_file", key_file, key, _KEY, "private key"),
    ):
        if mark not in content:
            raise ConfigError(f"{setting} {file} holds no {what} in PEM")


def _read_from_keystore(config: Config, file: Path) -> tuple[bytes, bytes]:
    try:
        from mooring.web.keystore import read_keystore  # noqa: PLC0415 (an extra)
    except ImportError:
        need = missing_package(f"keystore {file}", "cryptography")
        raise ConfigError(f"{need}; or give certificate_file and private_key_file as PEM") from None
    try:
        return read_keystore(
            file, _read_file("keystore", file), config.keystore_pass.text, config.keystore_type
        )
    except ValueError as error:
        raise ConfigError(f"keystore {file} {error}") from error


def _read_file(setting: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting} {file}: {error.strerror}") from error


def _make_context(label: str, chain: bytes, key: bytes, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could have the server do that again and again
    context.set_alpn_protocols([protocol])
    # OpenSSL reads these from files only. This one is for its owner alone, and for a moment.
    with tempfile.NamedTemporaryFile() as file:
        file.write(key + b"\n" + chain)
        file.flush()
        try:
            context.load_cert_chain(file.name, password=lambda: b"")
        except ssl.SSLError as error:
            reason = (
                "the private key is not that of the certificate"
                if error.reason == "KEY_VALUES_MISMATCH"
                else f"they cannot be used ({error.reason or error})"
            )
            raise ConfigError(f"{label}: {reason}") from error
    return context


def _require_client_certificate(context: ssl.SSLContext, authorities: bytes, file: Path) -> None:
    """Let in only clients that show a certificate of these authorities."""
    try:
        context.load_verify_locations(cadata=authorities.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"client_ca_file {file} holds no certificates in PEM: {error}") from error
    context.verify_mode = ssl.CERT_REQUIRED


def _client_objection(context: ssl.SSLContext, chain: bytes) -> str:
    """Return what a client objects to in the certificate even if it trusts it, such as its expiry; empty for nothing.

    Only a handshake tells that: so here is one with ourselves, over memory.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(cadata=chain.decode("latin-1"))
    asked, answered = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(answered, asked)
    server = context.wrap_bio(asked, answered, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        except ssl.SSLWantReadError:
            continue
    return ""
