"""Which token allows what, when one expires, and what is in the key file."""

import json
import stat

import pytest

from mooring.config.settings import Address, Config, ConfigError, Secret
from mooring.tokens import Access, TokenFile, Tokens, tokens_of

BOTH = (Access.MANAGEMENT, Access.INFERENCE)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def generated(folder, clock=None, **how) -> Tokens:
    tokens = Tokens(fixed={}, generated=BOTH, file=folder / "key_file.json", clock=clock or Clock(), **how)
    tokens.publish()
    return tokens


def key(folder, kind: str) -> bytes:
    return json.loads((folder / "key_file.json").read_text())[kind]["key"].encode()


def test_the_management_token_infers_and_the_inference_token_does_not_manage(tmp_path):
    tokens = generated(tmp_path)
    allowed = {
        (kind, access)
        for kind in ("inference", "management", "API")
        for access in (*BOTH, Access.RENEWAL, Access.METRICS)
        if not tokens.lacking(access, b"Bearer " + key(tmp_path, kind))
    }
    assert allowed == {
        ("inference", Access.INFERENCE), ("inference", Access.METRICS), ("management", Access.INFERENCE),
        ("management", Access.MANAGEMENT), ("management", Access.METRICS), ("API", Access.RENEWAL),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("header", "why"),
    [(None, "no Authorization header"), (b"", "no Authorization header"), (b"Bearer", "does not read"),
     (b"Bearer ", "does not read"), (b"KEY", "does not read"), (b"Basic KEY", "does not read"),
     (b"Bearer KEY KEY", "does not read"), (b"Bearer KEYx", "not one of this server's"),
     (b"Bearer \xff\xfe", "not one of this server's"), (b"Bearer API", "this is the API token")],
)  # fmt: skip
def test_what_is_wrong_with_a_header_is_said(tmp_path, header, why):
    tokens = generated(tmp_path)
    for name, kind in ((b"KEY", "inference"), (b"API", "API")):
        header = header and header.replace(name, key(tmp_path, kind))
    assert why in tokens.lacking(Access.INFERENCE, header)


@pytest.mark.parametrize("form", [b"Bearer %s", b"bearer %s", b"BEARER   %s  "])
def test_a_header_may_be_written_as_http_allows(tmp_path, form):
    assert not generated(tmp_path).lacking(Access.INFERENCE, form % key(tmp_path, "inference"))


def test_a_token_lasts_its_time_and_no_longer_and_the_api_key_lasts(tmp_path):
    clock = Clock()
    tokens = generated(tmp_path, clock, lifetime=60.0)
    header = b"Bearer " + key(tmp_path, "management")
    clock.now += 59.9
    assert not tokens.lacking(Access.MANAGEMENT, header)
    clock.now += 0.1
    assert tokens.lacking(Access.MANAGEMENT, header) == "the token has expired"
    assert tokens.lacking(Access.INFERENCE, header) == "the token has expired"
    assert not tokens.lacking(Access.RENEWAL, b"Bearer " + key(tmp_path, "API"))
    tokens.renew(Access.MANAGEMENT)
    assert not tokens.lacking(Access.MANAGEMENT, b"Bearer " + key(tmp_path, "management"))
    assert tokens.lacking(Access.MANAGEMENT, header) == "the token is not one of this server's"


def test_a_key_file_that_cannot_be_written_changes_nothing(tmp_path, monkeypatch):
    tokens = generated(tmp_path)
    before, header = (tmp_path / "key_file.json").read_bytes(), b"Bearer " + key(tmp_path, "inference")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mooring.tokens.json.dump", full)
    with pytest.raises(OSError, match="No space"):
        tokens.renew(Access.INFERENCE)
    assert (tmp_path / "key_file.json").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["key_file.json"]
    assert not tokens.lacking(Access.INFERENCE, header)
    with pytest.raises(ConfigError, match="give fixed tokens"):
        tokens.publish()


def test_the_key_file_takes_the_place_of_another_and_follows_no_link(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "key_file.json").symlink_to(other)
    generated(tmp_path)
    assert other.read_text() == "mine"
    found = (tmp_path / "key_file.json").lstat()
    assert stat.S_ISREG(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_a_kind_with_a_fixed_token_is_not_in_the_file(tmp_path):
    tokens = Tokens(
        fixed={Access.MANAGEMENT: b"given"}, generated=(Access.INFERENCE,), file=tmp_path / "key_file.json"
    )
    tokens.publish()
    assert set(json.loads((tmp_path / "key_file.json").read_text())) == {"inference", "API"}
    assert not tokens.lacking(Access.INFERENCE, b"Bearer given")


def test_a_file_is_read_again_when_it_has_changed_and_kept_in_mind_when_it_is_no_good(tmp_path):
    file, clock = tmp_path / "token", Clock()
    file.write_text("the first one\n".replace(" ", "-"))
    tokens = Tokens(fixed={Access.MANAGEMENT: TokenFile(file)}, clock=clock)

    def accepted(text: bytes) -> bool:
        clock.now += 2
        return not tokens.lacking(Access.MANAGEMENT, b"Bearer " + text)

    assert accepted(b"the-first-one")
    file.write_text("short")
    assert accepted(b"the-first-one")
    file.unlink()
    assert accepted(b"the-first-one")
    file.write_text("the-second-one")
    assert accepted(b"the-second-one")
    assert not accepted(b"the-first-one")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"inference_token": Secret("an inference-token")}, "no blanks"),
        ({"management_token": Secret("short")}, "at least 8"),
        ({"inference_token": Secret("long-enough")}, "management_token"),
        ({"management_token": Secret("long-enough"), "management_token_file": "x"}, "both given"),
        ({"management_token_file": "nowhere"}, "No such file"),
    ],
)
def test_tokens_that_cannot_be_used_are_refused_without_being_shown(tmp_path, settings, said):
    files = {name: tmp_path / value for name, value in settings.items() if isinstance(value, str)}
    with pytest.raises(ConfigError, match=said) as refused:
        tokens_of(Config(**settings | files))
    assert not any(word in str(refused.value) for word in ("an inference-token", "short", "long-enough"))


def test_without_a_word_there_are_no_tokens():
    assert tokens_of(Config()) is None


def test_an_inference_token_is_not_taken_where_nobody_needs_one_to_manage():
    given = Config(token_authorization="elsewhere", inference_token=Secret("an-inference-token"))
    with pytest.raises(ConfigError, match="management_token"):
        tokens_of(given)


def test_the_key_file_goes_with_the_server_that_wrote_it_and_stays_if_it_is_another_ones(tmp_path):
    tokens = generated(tmp_path)
    generated(tmp_path)
    tokens.withdraw()
    assert (tmp_path / "key_file.json").exists()
    generated(tmp_path).withdraw()
    assert not (tmp_path / "key_file.json").exists()


def test_without_a_key_file_that_nobody_needs_no_token_is_checked(tmp_path):
    folder = tmp_path / "gone"
    tokens = Tokens(
        fixed={Access.INFERENCE: b"given-by-hand"},
        generated=(Access.MANAGEMENT,),
        file=folder / "key_file.json",
    )
    with pytest.raises(ConfigError, match="cannot be written"):
        tokens.publish()
    tokens.publish(needed=False)
    assert set(tokens.tokens) == {Access.INFERENCE}


def test_where_only_managing_needs_a_token_one_that_nobody_can_read_goes_on_being_needed(tmp_path):
    config = Config(token_authorization="management", management_address=Address("0.0.0.0", 8085))
    tokens = tokens_of(config)
    assert tokens is not None
    assert tokens.guards(Access.MANAGEMENT)
    assert not tokens.guards(Access.INFERENCE)
    tokens.file = tmp_path / "gone" / "key_file.json"
    tokens.publish(needed=False, kept=True)
    assert tokens.guards(Access.MANAGEMENT)
    assert tokens.file is None
