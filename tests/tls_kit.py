"""Certificates for tests, made as they are needed: an authority, and whom it vouches for."""

import datetime as dt
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)


class Pair(NamedTuple):
    """A certificate and its key, as files."""

    cert: Path
    key: Path

    @property
    def flags(self) -> list[str]:
        """What a server is started with."""
        return [f"--certificate-file={self.cert}", f"--private-key-file={self.key}"]


class Authority:
    """Vouches for others. ``ca`` is the file to trust it by."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self._own = self._signed(
            self._name, self._key.public_key(), 2, [(x509.BasicConstraints(ca=True, path_length=None), True)]
        )
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(self._own.public_bytes(Encoding.PEM))

    def issue(self, name: str = "localhost", *, days: float = 2, password: str = "") -> Pair:
        """A certificate for this machine, or for a client; with a key that ``password`` encrypts, if there is one."""
        key, certificate = self._issued(name, days)
        hidden = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        pair = Pair(self.folder / f"{name}-cert.pem", self.folder / f"{name}-key.pem")
        # Both anew and by renaming, as those who renew certificates do it: nobody reads half a file.
        for file, content in (
            (pair.cert, certificate.public_bytes(Encoding.PEM)),
            (pair.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)),
        ):
            fresh = file.with_suffix(".new")
            fresh.write_bytes(content)
            fresh.replace(file)
        return pair

    def keystore(self, password: str = "changeit") -> Path:
        """A certificate for this machine as keytool would keep it."""
        key, certificate = self._issued("localhost", 2)
        hidden = BestAvailableEncryption(password.encode())
        file = self.folder / "keystore.p12"
        file.write_bytes(pkcs12.serialize_key_and_certificates(b"ts", key, certificate, [self._own], hidden))
        return file

    def _issued(self, name, days):
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        more = [(x509.SubjectAlternativeName(names), False)]
        return key, self._signed(_named(name), key.public_key(), days, more)

    def _signed(self, subject, public_key, days, extensions):
        end = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - dt.timedelta(days=30))
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
