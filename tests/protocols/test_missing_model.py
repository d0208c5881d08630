"""A wrong request for a model that is not there: every protocol says that it is not there."""

import pytest

from mooring.core import errors

FORM = "content-type: multipart/form-data"  # with no boundary: no form
TIME = "x-request-timeout-ms: soon"


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("/v1/models/{}:predict", ()),
        ("/v1/models/{}:explain", (TIME,)),
        ("/predictions/{}", (FORM,)),
        ("/predictions/{}/9.0", (FORM,)),
        ("/explanations/{}", (FORM,)),
        ("/models/{}/invoke", (FORM,)),
        ("/{}/predict", (FORM,)),
        ("/predictions/{}", (TIME,)),
    ],
)
async def test_the_model_is_missing_before_its_body_is_wrong(inference, target, lines):
    for model, status in (("nobody", 404), ("echo", 404 if "9.0" in target else 400)):
        reply = await inference.call("POST", target.format(model), b"no sense", *lines)
        assert reply.status == status
        assert not inference.service.requests


@pytest.mark.parametrize("what", ["infer", "generate", "generate_stream", "versions/7/infer"])
@pytest.mark.parametrize("body", [b"", b"no sense", b'{"inputs": [{"name": 7}]}'])
async def test_so_it_is_under_v2(v2, what, body):
    for model, status in (("nobody", 404), ("echo", 404 if "7" in what else 400)):
        reply = await v2.call("POST", f"/v2/models/{model}/{what}", body)
        assert reply.status == status
    assert not v2.service.requests


async def test_a_models_own_wrong_answer_is_a_500_under_v1_for_proxies_ask_again_after_a_503(inference):
    for code, status in ((0, 500), (507, 507)):
        error = errors.InvalidOutput("output 'y' is missing", code=code)
        inference.service.answer = lambda request, error=error: [error]
        reply = await inference.call("POST", "/v1/models/echo:predict", b'{"instances": [1]}')
        assert reply.status == status
        assert b"output 'y' is missing" in reply.body
        assert (await inference.call("POST", "/predictions/echo", b"1")).status == (code or 503)
