"""The server's certificates: what is read, what is refused in which words, and what happens when the files change."""

import ssl
import sys

import pytest
from tls_kit import Authority

from mooring.config.settings import Address, Config, ConfigError, Secret
from mooring.web.certificates import Certificates, certificates_of

HTTPS = Address("127.0.0.1", 0, secure=True)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ca")


def settings(pair=None, **more):
    named = {} if pair is None else {"certificate_file": pair.cert, "private_key_file": pair.key}
    return Config(inference_address=HTTPS, **named | more)


def refusal(config):
    with pytest.raises(ConfigError) as caught:
        certificates_of(config)
    return str(caught.value)


def subject(certificates, ca):
    """Whom a client sees that trusts the authority, by a handshake over memory."""
    trusting = ssl.create_default_context(cafile=str(ca))
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = certificates.current().wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert()["serialNumber"]


def test_nothing_is_read_where_no_address_speaks_tls(authority, capsys):
    pair = authority.issue()
    assert certificates_of(Config()) is None
    assert certificates_of(Config(certificate_file=pair.cert, private_key_file=pair.key)) is None


def test_an_https_address_without_a_certificate_says_what_to_set(authority):
    said = refusal(settings())
    assert "inference_address https://127.0.0.1:0 needs a certificate" in said
    assert "certificate_file and private_key_file (PEM), or keystore (PKCS12)" in said
    pair = authority.issue()
    assert "set private_key_file (PEM)" in refusal(settings(certificate_file=pair.cert))
    assert "set certificate_file (PEM)" in refusal(settings(private_key_file=pair.key))


def test_clients_that_nobody_would_check_are_no_setting(authority):
    assert "client_ca_file guards nothing" in refusal(Config(client_ca_file=authority.ca))


def test_pem_and_keystore_both_make_a_server_that_clients_trust(authority):
    for config in (settings(authority.issue()), settings(keystore=authority.keystore())):
        assert subject(Certificates(config), authority.ca)


@pytest.mark.parametrize("kind", ["PKCS12", "pkcs12"])
def test_a_keystore_may_have_a_password_of_its_own(authority, kind):
    file = authority.keystore("s3cret")
    assert certificates_of(settings(keystore=file, keystore_pass=Secret("s3cret"), keystore_type=kind))
    said = refusal(settings(keystore=file, keystore_pass=Secret("wr0ng")))
    assert f"keystore {file} cannot be opened: the password (keystore_pass) is wrong" in said
    assert "wr0ng" not in said


def test_jks_is_refused_with_the_command_that_converts_it(authority, tmp_path):
    file = tmp_path / "keystore.jks"
    file.write_bytes(b"\xfe\xed\xfe\xed\x00\x00\x00\x02")
    said = refusal(settings(keystore=file))
    assert (
        f"keytool -importkeystore -srckeystore {file} -destkeystore keystore.p12 -deststoretype PKCS12"
        in said
    )
    assert "is JKS" in refusal(settings(keystore=authority.keystore(), keystore_type="JKS"))


def test_without_the_library_the_way_to_get_it_is_said(authority, monkeypatch):
    monkeypatch.delitem(sys.modules, "mooring.web.keystore", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization.pkcs12", None)
    assert 'pip install "mooring[tls]"' in refusal(settings(keystore=authority.keystore()))


def test_each_fault_of_the_files_is_named(authority, tmp_path):
    pair, other = authority.issue(), authority.issue("other")
    odd = tmp_path / "odd.pem"
    odd.write_bytes(b"\x30\x82\x01\x00")
    locked = authority.issue("locked", password="x")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for config, said in (
        (settings(pair._replace(cert=tmp_path / "gone.pem")), "gone.pem: No such file or directory"),
        (settings(pair._replace(key=tmp_path)), "Is a directory"),
        (settings(pair._replace(key=other.key)), "the private key is not that of the certificate"),
        (settings(pair._replace(cert=odd)), f"certificate_file {odd} holds no certificate in PEM"),
        (settings(pair._replace(key=odd)), f"private_key_file {odd} holds no private key in PEM"),
        (
            settings(pair._replace(cert=pair.key, key=pair.cert)),
            f"certificate_file {pair.key} holds the private key, and private_key_file {pair.cert} the certificate: swap them",
        ),
        (settings(pair._replace(cert=broken)), "they cannot be used"),
        (
            settings(locked),
            f"is encrypted, and the server cannot ask for its password: openssl pkey -in {locked.key}",
        ),
        (settings(pair, client_ca_file=odd), "holds no certificates in PEM"),
        (settings(pair, client_ca_file=tmp_path / "gone.pem"), "client_ca_file"),
    ):
        assert said in refusal(config)


def test_an_expired_certificate_is_served_with_a_warning(authority, caplog):
    certificates_of(settings(authority.issue()))
    assert not caplog.records
    certificates_of(settings(authority.issue(days=-1)))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "certificate has expired" in str(record.__dict__)


def test_files_that_change_are_read_again_and_only_then(authority):
    pair = authority.issue()
    certificates = Certificates(settings(pair))
    first, context = subject(certificates, authority.ca), certificates.current()
    certificates.renew()
    assert certificates.current() is context
    authority.issue()
    certificates.renew()
    assert subject(certificates, authority.ca) != first
    assert certificates.current_rpc() is not certificates.current()


def test_half_a_renewal_changes_nothing_until_the_other_half_is_there(authority):
    pair = authority.issue()
    certificates = Certificates(settings(pair))
    first = subject(certificates, authority.ca)
    old_key = pair.key.read_bytes()
    authority.issue()
    new_key = pair.key.read_bytes()
    pair.key.write_bytes(old_key)
    certificates.renew()
    pair.cert.rename(pair.cert.with_suffix(".away"))
    certificates.renew()
    assert subject(certificates, authority.ca) == first
    pair.cert.with_suffix(".away").rename(pair.cert)
    pair.key.write_bytes(new_key)
    certificates.renew()
    assert subject(certificates, authority.ca) != first
