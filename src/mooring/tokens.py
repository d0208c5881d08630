"""Tokens: what a call needs, which token allows it, how long one lasts, and the file where they are found.

A token is generated (it expires, is renewed with the API key, and stands in TorchServe's key file) or fixed (given by
the user, or in a file that is read again when it has changed; it never expires). The management token may do what the
inference token may, and not the other way round. One process has the ``Tokens`` of a server; frontend processes have a
``TokenTable``, and are told of every change.
"""

import hmac
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

from mooring.config.settings import Config, ConfigError
from mooring.observability.logs import get_logger

log = get_logger(__name__)

KEY_FILE = "key_file.json"
_LEAST = 8
_LOOK_EVERY = 1.0  # seconds between two looks at the file of a fixed token


class Access(Enum):
    """What a call needs where tokens are on; the value is the token's name."""

    OPEN = ""
    METRICS = "inference or management"
    INFERENCE = "inference"
    MANAGEMENT = "management"
    RENEWAL = "API"


@dataclass(slots=True)
class Token:
    """One secret. ``expires`` is on the monotonic clock, so that no change of the wall clock makes it last."""

    key: bytes
    expires: float = float("inf")
    until: str = ""  # the same on the wall clock, for the key file

    def is_(self, given: bytes) -> bool:
        """Compared in a time that does not tell how much of it is right."""
        return hmac.compare_digest(self.key, given)


class TokenFile:
    """A fixed token in a file: a secret that Kubernetes mounts is replaced there while the server runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._looked = float("-inf")

    def read(self) -> bytes:
        """Raises ``ConfigError`` for a file without a token."""
        try:
            found = self._path.stat()
            self._seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            return checked(self._path.read_bytes().strip(), str(self._path))
        except OSError as error:
            raise ConfigError(f"{self._path}: {error.strerror}, and a token should be there") from None

    def changed(self, now: float) -> bytes:
        """The token, if there is another one since the last look; empty where there is not."""
        if now - self._looked < _LOOK_EVERY:
            return b""
        self._looked = now
        with suppress(OSError):  # it is being replaced: what is known holds on
            found = self._path.stat()
            if (found.st_mtime_ns, found.st_ino, found.st_size) != self._seen:
                try:
                    return self.read()
                except ConfigError as error:
                    log.warning("the token stays as it was", reason=str(error))
        return b""


def checked(key: bytes, where: str) -> bytes:
    """A token that a header can hold and nobody guesses at once. Raises ``ConfigError``, which does not show it."""
    if len(key) < _LEAST or not all(0x21 <= byte <= 0x7E for byte in key):
        raise ConfigError(f"{where}: a token has at least {_LEAST} characters of ASCII and no blanks")
    return key


class TokenTable:
    """The tokens that calls are checked against, in any process. Every kind of call that has none is open.

    ``tokens`` are those that hold now, ``renewable`` the kinds that a client may renew.
    """

    def __init__(self, tokens: Mapping[Access, Token], renewable: tuple[Access, ...] = ()) -> None:
        self.tokens = dict(tokens)
        self.renewable = renewable

    def replace(self, tokens: Mapping[Access, Token]) -> None:
        """Check calls against these from now on."""
        self.tokens = dict(tokens)

    def guards(self, access: Access) -> bool:
        """Whether a call of this kind needs a token."""
        return access in self.tokens or (access is Access.METRICS and bool(self.tokens))

    def is_given(self, access: Access) -> bool:
        """Whether the token for this kind of call is the user's own, or the API key: those are needed at every address."""
        kinds = self.tokens.keys() - {Access.RENEWAL} if access is Access.METRICS else {access}
        return any(kind not in self.renewable for kind in kinds)

    def lacking(self, access: Access, authorization: bytes | None, now: float | None = None) -> str:
        """Why the header of a call does not allow it; empty where it does. ``now`` is on the monotonic clock."""
        if not authorization:
            return "there is no Authorization header"
        scheme, _, key = authorization.strip().partition(b" ")
        key = key.strip()
        if scheme.lower() != b"bearer" or not key or b" " in key:
            return "the Authorization header does not read 'Bearer TOKEN'"
        if now is None:
            now = time.monotonic()
        for kind in _ALLOWED_BY[access]:
            token = self.tokens.get(kind)
            if token is not None and token.is_(key):
                return "" if now < token.expires else "the token has expired"
        for kind, token in self.tokens.items():
            if token.is_(key):
                return f"this is the {kind.value} token"
        return "the token is not one of this server's"

    def how(self, access: Access) -> str:
        """How whoever may have a token gets it."""
        if access is Access.RENEWAL:
            return f"it stands in the server's {KEY_FILE}"
        if not any(kind in self.renewable for kind in _ALLOWED_BY[access]):
            return "whoever runs the server has set it"
        return f"it stands in the server's {KEY_FILE}, and GET /token?type={access.value} with the API key renews it"


class Tokens(TokenTable):
    """The tokens of a running server, in the process that generates, renews and reads them.

    ``fixed`` are those of the user; ``generated`` those kinds that get a random one, good for ``lifetime`` seconds and
    written to ``file`` by ``publish``. ``on_change`` gets all tokens whenever one of them is another.
    """

    def __init__(
        self,
        *,
        fixed: Mapping[Access, bytes | TokenFile],
        generated: tuple[Access, ...] = (),
        lifetime: float = 3600.0,
        file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[Mapping[Access, Token]], None] = lambda _tokens: None,
    ) -> None:
        self.file = file if generated else None
        self._lifetime = lifetime
        self._clock = clock
        self._on_change = on_change
        self._files = {kind: given for kind, given in fixed.items() if isinstance(given, TokenFile)}
        tokens = {
            kind: Token(given.read() if isinstance(given, TokenFile) else given)
            for kind, given in fixed.items()
        }
        if generated:
            tokens |= {kind: self._new() for kind in generated}
            tokens[Access.RENEWAL] = Token(_random())
        super().__init__(tokens, generated)

    def publish(self, *, needed: bool = True, kept: bool = False) -> None:
        """Write the key file. Only once the addresses are had: a start in vain leaves a running server's file alone.

        Raises ``ConfigError`` if it cannot be written. If it is not ``needed``, that is logged, and the tokens that
        nobody can read are not checked; with ``kept`` they are, so that nobody does what needs one.
        """
        try:
            self._write(self.tokens)
        except OSError as error:
            why = f"{self.file} cannot be written ({error.strerror})"
            if needed:
                raise ConfigError(
                    f"{why}: start in a folder that can be written to, or give fixed tokens"
                    " (management_token_file and inference_token_file)"
                ) from None
            self.file = None
            if kept:
                effect = "nothing that needs a generated token can be done"
                log.warning("there is no key file", reason=why, effect=effect)
                return
            generated = {*self.renewable, Access.RENEWAL}
            self.replace({kind: token for kind, token in self.tokens.items() if kind not in generated})
            log.warning("there is no key file", reason=why, effect="no token is checked, and none is needed")

    def withdraw(self) -> None:
        """Delete the key file, unless it is another server's by now."""
        if self.file is None:
            return
        with suppress(OSError, ValueError, LookupError, TypeError):
            key = json.loads(self.file.read_bytes())[Access.RENEWAL.value]["key"]
            if self.tokens[Access.RENEWAL].is_(key.encode()):
                self.file.unlink()

    def lacking(self, access: Access, authorization: bytes | None, now: float | None = None) -> str:
        """As in ``TokenTable``; a file of a token that has changed is read first."""
        if now is None:
            now = self._clock()
        if self._files:
            self.read_changed(now)
        return super().lacking(access, authorization, now)

    def renew(self, kind: Access) -> None:
        """Another token in place of this one, in the file as well. Raises ``OSError``, and nothing has changed then."""
        tokens = self.tokens | {kind: self._new()}
        self._write(tokens)
        self.replace(tokens)

    def replace(self, tokens: Mapping[Access, Token]) -> None:
        """As in ``TokenTable``, and say so to whoever else checks calls."""
        super().replace(tokens)
        self._on_change(self.tokens)

    def read_changed(self, now: float | None = None) -> None:
        """Read the files of tokens that have changed, about once a second at most."""
        if now is None:
            now = self._clock()
        for kind, file in self._files.items():
            if key := file.changed(now):
                self.replace(self.tokens | {kind: Token(key)})
                log.info("another token", kind=kind.value)

    def _new(self) -> Token:
        until = datetime.now(UTC) + timedelta(seconds=self._lifetime)
        return Token(_random(), self._clock() + self._lifetime, until.isoformat().replace("+00:00", "Z"))

    def _write(self, tokens: Mapping[Access, Token]) -> None:
        """All of it or nothing, for the eyes of the server's user alone."""
        if self.file is None:
            return
        document = {
            kind.value: {"key": tokens[kind].key.decode(), "expiration time": tokens[kind].until}
            for kind in (Access.MANAGEMENT, Access.INFERENCE)
            if kind in self.renewable
        } | {Access.RENEWAL.value: {"key": tokens[Access.RENEWAL].key.decode()}}
        descriptor, name = tempfile.mkstemp(prefix=f".{KEY_FILE}-", dir=self.file.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "w") as written:
                json.dump(document, written, indent=2)
            Path(name).replace(self.file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


_ALLOWED_BY: Mapping[Access, tuple[Access, ...]] = {
    Access.METRICS: (Access.INFERENCE, Access.MANAGEMENT),
    Access.INFERENCE: (Access.INFERENCE, Access.MANAGEMENT),
    Access.MANAGEMENT: (Access.MANAGEMENT,),
    Access.RENEWAL: (Access.RENEWAL,),
}


def allowing(access: Access) -> tuple[Access, ...]:
    """The kinds of tokens of which any one will do."""
    return _ALLOWED_BY[access]


def _random() -> bytes:
    return secrets.token_urlsafe(24).encode()


def tokens_of(
    config: Config, on_change: Callable[[Mapping[Access, Token]], None] = lambda _tokens: None
) -> Tokens | None:
    """The tokens that the settings ask for; None where clients need none. Raises ``ConfigError``.

    ``on_change`` gets all of them whenever one is renewed or another one lies in its file.
    """
    fixed: dict[Access, bytes | TokenFile] = {}
    for kind, secret, file in (
        (Access.MANAGEMENT, config.management_token, config.management_token_file),
        (Access.INFERENCE, config.inference_token, config.inference_token_file),
    ):
        name = f"{kind.value}_token"
        if secret and file is not None:
            raise ConfigError(f"{name} and {name}_file are both given: one token, one place")
        if secret:
            fixed[kind] = checked(secret.text.encode("utf-8", "surrogateescape"), name)
        elif file is not None:
            fixed[kind] = TokenFile(file)
    wanted: tuple[Access, ...] = (Access.MANAGEMENT, Access.INFERENCE) if config.generates_tokens else ()
    if config.guards_management_alone:
        wanted = (Access.MANAGEMENT,)
    generated = tuple(kind for kind in wanted if kind not in fixed)
    if not fixed and not generated:
        return None
    managing = (config.management_address, config.grpc_management_address)
    demanded = Access.MANAGEMENT in fixed or all(config.demands_tokens(address) for address in managing)
    if Access.INFERENCE in fixed and not demanded:
        raise ConfigError(
            "inference_token guards inference, and no token guards the management of models:"
            " give management_token, too, or token_authorization = on"
        )
    return Tokens(
        fixed=fixed,
        generated=generated,
        lifetime=config.token_expiration_min * 60,
        file=Path(KEY_FILE).absolute(),
        on_change=on_change,
    )
