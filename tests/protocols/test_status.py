"""The tables of errors: each kind of error in each protocol's words, and which rule wins where several could."""

import pytest

from mooring.core import errors
from mooring.core.errors import MooringError
from mooring.protocols import status
from mooring.protocols.status import Target
from mooring.web.grpc.status import Status

# Never said to a client: the first is relayed, the second is a client's own.
INTERNAL = {"ElsewhereOnly", "ServerUnreachable"}
KINDS = sorted(kind for kind in MooringError.kinds if kind not in INTERNAL)
TARGET = Target("mnist", "2")

# By kind: TorchServe's status and type, v1's status, v2's status, gRPC's status for v2.
WORDS = {
    "BodyMemoryFull": (503, "ServiceUnavailableException", 503, 503, "RESOURCE_EXHAUSTED"),
    "ClusterUnavailable": (503, "ServiceUnavailableException", 503, 503, "UNAVAILABLE"),
    "DeadlineExceeded": (504, "RequestTimeoutException", 504, 504, "DEADLINE_EXCEEDED"),
    "FetchFailed": (500, "InternalServerException", 500, 400, "FAILED_PRECONDITION"),
    "InputTooLarge": (413, "RequestEntityTooLargeException", 413, 413, "INVALID_ARGUMENT"),
    "InvalidInput": (400, "BadRequestException", 400, 400, "INVALID_ARGUMENT"),
    "InvalidOutput": (500, "InternalServerException", 500, 500, "INTERNAL"),
    "LoadingDisabled": (503, "ServiceUnavailableException", 503, 503, "UNAVAILABLE"),
    "ModelExists": (409, "ConflictStatusException", 409, 409, "ALREADY_EXISTS"),
    "ModelFailed": (500, "InternalServerException", 500, 500, "INTERNAL"),
    "RequirementsFailed": (500, "InternalServerException", 500, 400, "FAILED_PRECONDITION"),
    "ModelLoadFailed": (500, "InternalServerException", 500, 400, "FAILED_PRECONDITION"),
    "ModelNotFound": (404, "ModelNotFoundException", 404, 404, "NOT_FOUND"),
    "ModelNotReady": (503, "ServiceUnavailableException", 503, 503, "UNAVAILABLE"),
    "ModelRefused": (500, "InternalServerException", 500, 500, "INTERNAL"),
    "NodeFailed": (500, "InternalServerException", 500, 500, "INTERNAL"),
    "OutOfResources": (507, "InternalServerException", 507, 507, "RESOURCE_EXHAUSTED"),
    "PackageMissing": (500, "InternalServerException", 500, 400, "FAILED_PRECONDITION"),
    "QueueFull": (503, "ServiceUnavailableException", 503, 503, "RESOURCE_EXHAUSTED"),
    "QueueTimeout": (503, "ServiceUnavailableException", 503, 503, "UNAVAILABLE"),
    "RequestCancelled": (499, "RequestCancelledException", 499, 499, "CANCELLED"),
    "SequenceLost": (503, "ServiceUnavailableException", 503, 409, "ABORTED"),
    "SequencesFull": (503, "ServiceUnavailableException", 503, 503, "RESOURCE_EXHAUSTED"),
    "SourceRefused": (500, "InternalServerException", 500, 400, "FAILED_PRECONDITION"),
    "Unsupported": (501, "UnsupportedOperationException", 501, 501, "UNIMPLEMENTED"),
    "VersionIsDefault": (403, "InvalidModelVersionException", 403, 409, "FAILED_PRECONDITION"),
    "VersionNotFound": (404, "ModelVersionNotFoundException", 404, 404, "NOT_FOUND"),
    "WorkerDied": (500, "InternalServerException", 500, 500, "INTERNAL"),
    "WorkersFailed": (500, "InternalServerException", 500, 400, "FAILED_PRECONDITION"),
}


def make(kind, text="odd", **more):
    return MooringError.kinds[kind](text, **more)


def test_every_error_that_a_client_may_see_has_a_line_here():
    assert sorted(WORDS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_its_words_in_every_protocol(kind):
    error = make(kind)
    torchserve = status.torchserve(error, TARGET)
    assert (
        torchserve.status,
        torchserve.type,
        status.kserve_v1(error, TARGET).status,
        status.kserve_v2(error, TARGET).status,
        status.grpc_v2(error, TARGET)[0],
    ) == WORDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_protocol_says_something_of_every_error(kind):
    error = make(kind)
    assert status.torchserve(error, TARGET).message
    assert status.kserve_v1(error, TARGET).error
    assert status.kserve_v2(error, TARGET).message
    assert Status[status.grpc_v2(error, TARGET)[0]]
    assert Status[status.grpc_torchserve(status.torchserve(error, TARGET))[0]]
    assert 400 <= status.torchserve_registration(error, "m.mar").status < 600
    assert 400 <= status.torchserve_workflow_registration(error, "w.war").status < 600


def test_an_error_that_no_table_knows_is_what_it_is_a_kind_of():
    class Novel(errors.QueueFull):
        """A kind of error that no table knows."""

    assert status.torchserve(Novel(), TARGET) == status.torchserve(errors.QueueFull(), TARGET)
    assert status.kserve_v2(Novel(), TARGET).status == 503
    assert status.grpc_v2(Novel(), TARGET)[0] == "RESOURCE_EXHAUSTED"


# A status that the model has chosen.


@pytest.mark.parametrize(
    ("kind", "code", "torchserve", "v1", "v2", "grpc"),
    [
        ("ModelRefused", 404, 404, 404, 404, "NOT_FOUND"),
        ("ModelRefused", 418, 418, 418, 418, "INVALID_ARGUMENT"),
        ("ModelRefused", 429, 429, 429, 429, "RESOURCE_EXHAUSTED"),
        ("ModelRefused", 503, 503, 503, 503, "UNAVAILABLE"),
        ("ModelRefused", 599, 599, 599, 599, "INTERNAL"),
        ("ModelRefused", 413, 413, 413, 413, "INVALID_ARGUMENT"),
        ("ModelRefused", 200, 500, 500, 500, "INTERNAL"),
        ("ModelRefused", 600, 600, 600, 500, "INTERNAL"),
        ("InvalidOutput", 500, 500, 500, 500, "INTERNAL"),
        ("ModelFailed", 404, 500, 500, 500, "INTERNAL"),
    ],
)
def test_a_status_that_the_model_chose_goes_first_where_the_rule_says_so(
    kind, code, torchserve, v1, v2, grpc
):
    error = make(kind, code=code)
    assert status.torchserve(error, TARGET).status == torchserve
    assert status.kserve_v1(error, TARGET).status == v1
    assert status.kserve_v2(error, TARGET).status == v2
    assert status.grpc_v2(error, TARGET)[0] == grpc


def test_torchserves_own_statuses_are_those_of_a_start_in_its_place():
    like_torchserve = status.FaultWords(status=503)
    for error, code in (
        (errors.ModelFailed("x"), 503),
        (errors.InvalidOutput("x"), 503),
        (errors.InvalidOutput("too large", code=500), 500),
        (errors.ModelRefused("x"), 500),
        (errors.ModelRefused("x", code=413), 507),
        (errors.OutOfResources("x"), 507),
    ):
        assert status.torchserve(error, TARGET, like_torchserve).status == code
    fault = errors.ModelFailed("x")
    assert status.grpc_torchserve(status.torchserve(fault, TARGET))[0] == "INTERNAL"
    assert status.grpc_torchserve(status.torchserve(fault, TARGET, like_torchserve))[0] == "UNAVAILABLE"
    # Proxies retry after a 503, and another try would fail in the same way.
    assert status.kserve_v1(errors.ModelFailed("x"), TARGET, like_torchserve).status == 500


# Texts.


def test_a_fault_is_told_with_the_last_line_of_the_models_own_code_where_it_is_shown():
    trace = (
        'Traceback (most recent call last):\n  File "/srv/app.py", line 7, in infer\n    return look(x)\n'
        '  File "/venv/lib/python3.11/site-packages/numpy/x.py", line 9, in look\n    raise KeyError\n'
    )
    error = errors.ModelFailed("KeyError: 'x'", detail=trace)
    shown = status.FaultWords(shown=True)
    assert status.torchserve(error, TARGET, shown).message == "KeyError: 'x' (app.py, line 7, in infer)"
    assert status.torchserve(error, TARGET).message == "Prediction failed"
    assert status.kserve_v1(error, TARGET, shown).error == "KeyError : 'x'"
    long = status.torchserve(errors.ModelFailed("x" * 9000), TARGET, shown).message
    assert (len(long), long[-4:]) == (2003, "x...")
    died = errors.WorkerDied(
        "Worker died.", detail="worker 9000 (pid 71) was killed by signal 11 (SIGSEGV)\nlast words"
    )
    assert (
        status.torchserve(died, TARGET, shown).message == "Worker died: it was killed by signal 11 (SIGSEGV)."
    )
    assert status.torchserve(errors.WorkerDied("Worker died."), TARGET, shown).message == "Worker died."
    assert status.torchserve(died, TARGET).message == "Worker died."
    memory = errors.OutOfResources("MemoryError: 3 GB")
    assert status.torchserve(memory, TARGET, shown).message == "MemoryError: 3 GB"
    assert status.torchserve(memory, TARGET).message == "Out of resources"


def test_who_finds_no_room_is_told_when_to_come_again_within_a_minute():
    error = errors.QueueFull("full")
    heads = []
    for seconds in (0.0, 0.2, 4.2, 500.0):
        error.retry_after = seconds
        heads.append(status.kserve_v2(error, TARGET).head)
    assert heads == [b"retry-after: %d\r\n" % seconds for seconds in (1, 1, 5, 60)]
    assert status.torchserve(errors.BodyMemoryFull("full"), TARGET).head == b"retry-after: 1\r\n"
    assert status.torchserve(errors.InvalidInput("odd"), TARGET).head == b""


def test_v2_names_the_model_once():
    assert status.kserve_v2(errors.InvalidInput("odd"), TARGET).message == "odd (model 'mnist')"
    assert status.kserve_v2(errors.InvalidInput("'mnist' is odd"), TARGET).message == "'mnist' is odd"
    assert status.kserve_v2(errors.InvalidInput("odd"), Target()).message == "odd"
    assert status.kserve_v2(errors.ModelFailed("odd"), TARGET).message == "odd"


def test_a_text_is_about_what_was_asked_for_or_else_about_what_the_error_names():
    missing = errors.VersionNotFound("", model="cifar", version="7")
    texts = [status.kserve_v2(missing, target).message for target in (TARGET, Target())]
    assert texts == ["model 'mnist' has no version '2'", "model 'cifar' has no version '7'"]
    assert status.torchserve(missing, Target()).message == "Model version: 7 does not exist for model: cifar"


def test_a_version_that_is_no_number_is_the_callers_fault_over_grpc():
    missing = errors.VersionNotFound("", model="mnist")
    codes = [status.grpc_v2(missing, Target("mnist", version))[0] for version in ("", "2", "1.0", "latest")]
    assert codes == ["NOT_FOUND", "NOT_FOUND", "NOT_FOUND", "INVALID_ARGUMENT"]


def test_v1_names_the_exception_of_the_models_code_as_kserve_does():
    refusal = status.kserve_v1(errors.ModelFailed("ValueError: bad row"), TARGET)
    assert (refusal.message, refusal.error) == ("Prediction failed", "ValueError : bad row")


def test_torchserves_text_has_the_reason_beside_it_where_it_does_not_say_it():
    refusal = status.torchserve(errors.SequencesFull("10 sequences are open"), TARGET)
    assert "has no worker to serve inference request" in refusal.message
    assert refusal.error == "10 sequences are open"


@pytest.mark.parametrize(
    ("error", "url", "expected"),
    [
        (errors.ModelNotFound("no"), "m.mar", (404, "ModelNotFoundException", "Model not found at: m.mar")),
        (errors.ModelNotFound("no"), "", (404, "ModelNotFoundException", "empty url")),
        (
            errors.SourceRefused("no"), "http://a/m.mar",
            (404, "ModelNotFoundException", "Given URL http://a/m.mar does not match any allowed URL(s)"),
        ),
        (
            errors.SourceRefused("no"), "../m.mar",
            (404, "ModelNotFoundException", "Relative path is not allowed in url: ../m.mar"),
        ),
        (
            errors.FetchFailed("no"), "http://a/m.mar",
            (400, "DownloadArchiveException", "Failed to download archive from: http://a/m.mar"),
        ),
        (errors.ModelLoadFailed("no zip"), "m.mar", (400, "InvalidModelException", "no zip")),
        (
            errors.RequirementsFailed("Custom pip package installation failed for model m: ERROR: x", model="m"), "m.mar",
            (400, "ModelException", "Custom pip package installation failed for model m"),
        ),
        (errors.OutOfResources("disk"), "m.mar", (507, "InternalServerException", "disk")),
        (
            errors.WorkersFailed("no torch", model="m", version="1"), "m.mar",
            (500, "InternalServerException", "Failed to start workers for model m version: 1"),
        ),
        (errors.InvalidInput("odd"), "m.mar", (400, "BadRequestException", "odd")),
    ],
)  # fmt: skip
def test_a_registration_has_torchserves_own_words(error, url, expected):
    refusal = status.torchserve_registration(error, url)
    assert (refusal.status, refusal.type, refusal.message) == expected


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (b"/v2/models/m", "v2"),
        (b"/v1/models/m", "v1"),
        (b"/predictions/m", "torchserve"),
        (b"/v20", "torchserve"),
    ],
)
def test_an_error_before_any_endpoint_has_the_words_of_its_target(target, words):
    refusal = status.refusal_for_target(errors.ModelNotFound("no"), TARGET, target)
    expected = {"v2": "no", "v1": "Model not found: mnist", "torchserve": "Model not found: mnist"}
    assert refusal.message == expected[words]
    assert bool(refusal.error) == (words == "v1")


@pytest.mark.parametrize(
    ("refusal", "name"),
    [
        (status.Refusal(404, "ModelNotFoundException", ""), "org.pytorch.serve.archive.model.ModelNotFoundException"),
        (status.Refusal(400, "DownloadArchiveException", ""), "org.pytorch.serve.archive.DownloadArchiveException"),
        (status.Refusal(400, "BadRequestException", ""), "org.pytorch.serve.http.BadRequestException"),
    ],
)  # fmt: skip
def test_torchserves_grpc_clients_get_the_class_of_the_exception(refusal, name):
    assert status.grpc_torchserve(refusal)[1] == f"\n{name}"


def test_a_fault_of_ours_says_its_class_alone():
    assert status.fault_refusal(KeyError("secret")).message == "Internal server error, see the server's log."
    assert status.fault_refusal(KeyError("secret")).type == "KeyError"
    assert status.fault_refusal(MemoryError()).status == 507
