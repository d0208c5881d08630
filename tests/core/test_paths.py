"""Names that lead out of a folder, and links that are followed to what they mean."""

from pathlib import Path

import pytest

from mooring.core.paths import leads_out, real_path


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/etc/passwd", "a\0b"])
def test_a_name_that_leads_out_is_known_by_itself(name):
    assert leads_out(name)


@pytest.mark.parametrize("name", ["x", "a/x", "./x", "..x", "a..b/x", ""])
def test_a_name_that_stays_is_no_other(name):
    assert not leads_out(name)


def test_links_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert real_path(tmp_path / "link") == (tmp_path / "real").resolve()


def test_a_link_whose_text_is_not_where_it_leads_is_left_as_it_is(tmp_path, monkeypatch):
    """As /proc/PID/root of a process in another container, which KServe's modelcar links to."""
    (tmp_path / "m").mkdir()
    (tmp_path / "other").mkdir()
    for elsewhere in (tmp_path / "other", tmp_path / "gone"):
        monkeypatch.setattr(Path, "resolve", lambda _, elsewhere=elsewhere: elsewhere)
        assert real_path(tmp_path / "m") == tmp_path / "m"
