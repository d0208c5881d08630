"""Which handler a target belongs to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.web.routing import Route, Router

PATTERNS = [
    "/",
    "/ping",
    "/ping/{rest*}",
    "/v1/models",
    "/v1/models/{name}",
    "/v1/models/{name}:predict",
    "/v1/models/{name}:explain",
    "/predictions/{name}",
    "/predictions/{name}/{version}",
    "/predictions/{name}/{version}/{rest*}",
    "/predictions/api/describe",
]


@pytest.fixture
def router():
    router = Router()
    for pattern in PATTERNS:
        router.add(Route(pattern, lambda exchange, match: None))
    return router


@pytest.mark.parametrize(
    ("target", "pattern", "params"),
    [
        (b"/", "/", {}),
        (b"/ping", "/ping", {}),
        (b"/ping/", "/ping", {}),
        (b"/ping/a/b", "/ping/{rest*}", {"rest": "a/b"}),
        (b"/v1/models/", "/v1/models", {}),
        (b"/v1/models/m", "/v1/models/{name}", {"name": "m"}),
        (b"/v1/models/m:n:predict", "/v1/models/{name}:predict", {"name": "m:n"}),
        (b"/v1/models/m:train", "/v1/models/{name}", {"name": "m:train"}),
        (b"/v1/models/:predict", "/v1/models/{name}", {"name": ":predict"}),
        (b"/predictions/m", "/predictions/{name}", {"name": "m"}),
        (b"/predictions/m/", "/predictions/{name}", {"name": "m"}),
        (b"/predictions/m/1.0", "/predictions/{name}/{version}", {"name": "m", "version": "1.0"}),
        (b"/predictions/api/describe", "/predictions/api/describe", {}),
        (b"/predictions/api/x", "/predictions/{name}/{version}", {"name": "api", "version": "x"}),
        (
            b"/predictions/m/1.0/v1/chat/",
            "/predictions/{name}/{version}/{rest*}",
            {"name": "m", "version": "1.0", "rest": "v1/chat/"},
        ),
        (b"/predictions/a%2Fb%20c", "/predictions/{name}", {"name": "a/b c"}),
        (b"/predictions/%C3%BC", "/predictions/{name}", {"name": "\u00fc"}),
        (b"/predictions/%ff%", "/predictions/{name}", {"name": "\ufffd%"}),
        (b"http://host:80/ping?x", "/ping", {}),
        (b"HTTPS://host", "/", {}),
        (b"/predictions/m?a=b/c#d", "/predictions/{name}", {"name": "m"}),
    ],
)
def test_a_target_leads_to_the_most_literal_pattern(router, target, pattern, params):
    for _ in range(2):
        match = router.find(target)
        assert (match.route.pattern, match.params) == (pattern, params)
    assert router.find(target) is match


@pytest.mark.parametrize(
    "target",
    [b"*", b"", b"/pin", b"/pings", b"///", b"/v1//models", b"/predictions", b"/predictions//", b"host:80"],
)
def test_a_target_that_fits_nothing_has_no_match(router, target):
    assert router.find(target) is None


def test_a_match_tells_path_query_segments_and_handler(router):
    match = router.find(b"/predictions/a%2Fb/1.0?x=%20&y#z")
    assert match.path == "/predictions/a/b/1.0"
    assert match.query == b"x=%20&y"
    assert match.segments == ("predictions", "a", "b", "1.0")
    assert match.handler is match.route.handler


def test_patterns_that_make_no_sense_are_refused_when_they_are_added():
    router = Router()
    router.add(Route("/a", print))
    for pattern in ("/a", "a", "/{all*}/b"):
        with pytest.raises(ValueError, match=r"mounted already|start with a slash|only the last"):
            router.add(Route(pattern, print))


def test_the_memory_of_targets_is_bounded_and_forgets_what_a_new_route_changes(router):
    for number in range(10_000):
        router.find(b"/predictions/m?%d" % number)
    router.find(b"/predictions/m?" + b"x" * 5_000)
    assert len(router._found) <= 4_096
    assert router.find(b"/predictions/known").params == {"name": "known"}
    router.add(Route("/predictions/known", print))
    assert router.find(b"/predictions/known").params == {}


@given(target=st.binary(max_size=60))
def test_no_target_is_a_fault(target):
    router = Router()
    for pattern in PATTERNS:
        router.add(Route(pattern, print))
    router.find(target)
    router.find(b"/predictions/" + target)
