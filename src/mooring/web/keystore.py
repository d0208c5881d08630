"""Reads Java's keystores: PKCS #12; JKS is refused with the command that converts it."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

_JKS = b"\xfe\xed\xfe\xed"


def read_keystore(file: Path, content: bytes, password: str, kind: str) -> tuple[bytes, bytes]:
    """Return the certificate with its chain, and its key, both PEM and the key unencrypted. Raises ``ValueError``."""
    if content.startswith(_JKS) or kind.upper() != "PKCS12":
        what = "JKS" if content.startswith(_JKS) else kind
        raise ValueError(
            f"is {what}, and only PKCS12 is read: keytool -importkeystore -srckeystore {file}"
            f" -destkeystore {file.stem}.p12 -deststoretype PKCS12 converts it"
        )
    try:
        store = load_pkcs12(content, password.encode())
    except ValueError as error:
        raise ValueError(
            "cannot be opened: the password (keystore_pass) is wrong, or it is not PKCS12; a snapshot does not hold"
            " the password: name its configuration file, or give MOORING_KEYSTORE_PASS"
        ) from error
    except UnsupportedAlgorithm as error:
        raise ValueError(f"cannot be opened: {error}") from error
    if store.key is None or store.cert is None:
        raise ValueError("holds no private key with its certificate")
    chain = [store.cert, *store.additional_certs]
    pem = b"".join(each.certificate.public_bytes(Encoding.PEM) for each in chain)
    return pem, store.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
