"""Takes the addresses of a server before anything else of it is begun, so that one that cannot be had ends the start at once.

Nothing listens yet: the system refuses clients as if there were no server. A unix socket is bound, and the
file is removed again until the server listens: clients that wait for the file must find a server behind it.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from msgspec import structs

from mooring.config.settings import Address, Config
from mooring.web.binding import bind_sockets, resolve_host

_SOCKETS = Path("/proc/net/unix")  # of Linux: every unix socket that is bound, by the path it was bound to
_LONGEST_COMMAND = 80


class AddressUnavailable(OSError):
    """An address that the server cannot have. The text names the setting, the address, the reason and the way out."""


def listener_settings(config: Config) -> Iterator[str]:
    """Return the settings whose addresses get a listener, in the order in which they are taken.

    Settings over HTTP with the same address share one, and so do both of gRPC; port 0 is a new port every time.
    """
    shown: list[Address] = []
    for name, enabled in {
        "inference_address": True,
        "second_inference_address": config.second_inference_address is not None,
        "management_address": config.enable_management_api,
        "metrics_address": config.enable_metrics_api,
    }.items():
        address: Address = getattr(config, name)
        if enabled and not (address in shown and (address.path or address.port)):
            shown.append(address)
            yield name
    yield "grpc_address"
    if has_second_grpc(config):
        yield "second_grpc_address"
    if config.enable_management_api and manages_separately(config):
        yield "grpc_management_address"


def manages_separately(config: Config) -> bool:
    """Whether the management over gRPC has an address of its own."""
    return _is_another(config.grpc_management_address, config.grpc_address)


def has_second_grpc(config: Config) -> bool:
    """Whether gRPC has a second address that is not the first once more."""
    address = config.second_grpc_address
    return address is not None and _is_another(address, config.grpc_address)


def _is_another(address: Address, first: Address) -> bool:
    return address != first or not (first.path or first.port)


class Reservation:
    """The addresses of one server: bound from ``reserve`` until each is given to its listener by ``take``.

    ``listening`` are the settings with the ports that were found where they say 0. ``flags`` says for each setting how
    the user chooses another address; without it the flag of ``mooring serve``.
    """

    def __init__(self, config: Config, flags: Mapping[str, str] = MappingProxyType({})) -> None:
        self.listening = config
        self._flags = flags
        self._bound: dict[str, list[socket.socket]] = {}
        self._paths: dict[str, socket.socket] = {}

    def reserve(self) -> None:
        """Bind every address, or none: raises ``AddressUnavailable`` for the first that cannot be had."""
        try:
            for name in listener_settings(self.listening):
                self._reserve(name)
        except OSError:
            self.close()
            raise

    def take(self, setting: str) -> list[socket.socket]:
        """Return the sockets of an address, which are the caller's from now on; none for a unix socket, whose path is free.

        An address that was not reserved is bound now. Raises ``AddressUnavailable``.
        """
        if setting not in self._bound and setting not in self._paths:
            self._reserve(setting)
        if (placeholder := self._paths.pop(setting, None)) is not None:
            placeholder.close()
        return self._bound.pop(setting, [])

    def close(self) -> None:
        """Give back the addresses that nobody has taken."""
        for sock in (*self._paths.values(), *(each for bound in self._bound.values() for each in bound)):
            sock.close()
        self._paths.clear()
        self._bound.clear()

    def _reserve(self, name: str) -> None:
        address: Address = getattr(self.listening, name)
        try:
            if address.path:
                self._paths[name] = _bind_path(address.path)
                return
            shared = self.listening.frontends > 1 and self.listening.deal_connections == "evenly"
            places = resolve_host(address.host, address.port)
            reuse_port = shared and name in ("inference_address", "grpc_address")
            sockets = self._bound[name] = bind_sockets(address.host, places, reuse_port=reuse_port)
        except OSError as error:
            raise AddressUnavailable(f"{name}: {self._explain(name, address, error)}") from None
        if not address.port:
            found = {name: structs.replace(address, port=sockets[0].getsockname()[1])}
            self.listening = structs.replace(self.listening, **found)

    def _explain(self, name: str, address: Address, error: OSError) -> str:
        """Say why an address cannot be had, and what to do."""
        where = address.path or str(address).partition("://")[2]
        other = f"choose another with {self._flags.get(name, _own_flag(name))}"
        if error.errno == errno.EADDRINUSE:
            for setting, bound in self._bound.items():
                if address.port in {each.getsockname()[1] for each in bound}:
                    return f"{where} is the {setting} of this start already; {other}"
            return f"{where} is in use{_find_owner(address)}; stop it or {other}"
        if name in ("inference_address", "grpc_address") and name not in self._flags:
            host = f"choose another with --host or {_own_flag(name).removeprefix('--port or ')}"
        else:
            host = other
        if isinstance(error, socket.gaierror):
            return f"no address is known for the host '{address.host}' ({error.strerror}); {host}"
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{address.host} is not an address of this machine; {host}"
        if error.errno in (errno.EACCES, errno.EPERM) and not address.path:
            return (
                f"this user may not listen on port {address.port}: the ports below 1024 are for the administrator;"
                f" {other}"
            )
        reason = error.strerror or str(error)
        return f"cannot listen on {where}: {reason}; {other}"


def _own_flag(name: str) -> str:
    flag = f"--{name.replace('_', '-')}"
    return f"--port or {flag}" if name == "inference_address" else flag


def _bind_path(path: str) -> socket.socket:
    """Bind a unix socket and remove its file, and the file of a server that is gone. Raises ``OSError``."""
    if Path(path).exists() or Path(path).is_symlink():
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise OSError(errno.EEXIST, "a file that is not a socket is there")
        if _is_used(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        Path(path).unlink()
    elif _is_bound(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
        Path(path).unlink()
    except OSError as error:
        sock.close()
        if error.errno is None:  # Python's own refusal
            limit = "a path of a unix socket may have 107 bytes"
            raise OSError(errno.ENAMETOOLONG, f"the path is too long ({limit})") from None
        raise
    return sock


def _is_used(path: str) -> bool:
    """Whether a process listens at a path, or has bound it and is about to."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return _is_bound(path)
    return True


def _is_bound(path: str) -> bool:
    """Whether a unix socket is bound to a path whose file may be gone, as far as the system tells."""
    end = f" {path}"
    with suppress(OSError), _SOCKETS.open(errors="replace") as lines:
        return any(line.rstrip("\n").endswith(end) for line in lines)
    return False


def _find_owner(address: Address) -> str:
    """Return by whom an address is used, as far as this user may see it."""
    if address.path:
        return " by another process"
    import psutil  # noqa: PLC0415 - only a start that fails asks

    with suppress(psutil.Error, OSError, RuntimeError):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == address.port:
                if each.pid is None:
                    continue
                command = _shorten(psutil.Process(each.pid).cmdline())
                return f", by process {each.pid}" + (f" ({command})" if command else "")
    return " by another process"


def _shorten(words: list[str]) -> str:
    """Return a command line as its user typed it, on one line: without the interpreter, and without folders of programs.

    >>> _shorten(["/usr/bin/python3", "/usr/bin/mooring", "serve", "digits.mar"])
    'mooring serve digits.mar'
    >>> _shorten(["/usr/bin/python3.11", "-m", "http.server", "8080"])
    'python3.11 -m http.server 8080'
    """
    if len(words) > 1 and Path(words[0]).name.startswith("python") and not words[1].startswith("-"):
        words = words[1:]
    text = " ".join([Path(words[0]).name, *words[1:]]) if words else ""
    shown = "".join(each if each.isprintable() else "?" for each in text)
    return shown if len(shown) <= _LONGEST_COMMAND else f"{shown[: _LONGEST_COMMAND - 3]}..."
