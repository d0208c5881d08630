"""Models written for Triton's Python backend, as its examples are: asked by Triton's own client, and none of them changed."""

import asyncio
import json
import queue
import re
import shutil
import tarfile
import time
import venv
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as tritongrpc
import tritonclient.grpc.aio
import tritonclient.http as tritonhttp
from e2e_kit import Server, Wire, request, until
from PIL import Image
from port_kit import free_ports
from tritonclient.utils import InferenceServerException

MODELS = Path(__file__).parent / "python_models"
FIRST, SECOND = np.array([1, 2, 3, 4], np.float32), np.array([4, 4, 4, 4], np.float32)


def bring_environment(env: Path, repository: Path) -> None:
    """Give two models an environment with a module that is nowhere else: one its folder, the other a tar file."""
    venv.create(env, symlinks=True, with_pip=False)
    (packages,) = env.glob("lib/python*/site-packages")
    (packages / "only_here.py").write_text("WORD = 'here'\n")
    with tarfile.open(repository / "environment_tar" / "env.tar.gz", "w:gz") as file:
        file.add(env, ".")
    shutil.copytree(repository / "environment_tar/1", repository / "environment_folder/1")
    text = (repository / "environment_tar/config.pbtxt").read_text()
    text = text.replace("$$TRITON_MODEL_DIRECTORY/env.tar.gz", str(env))
    (repository / "environment_folder/config.pbtxt").write_text(text)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton_python")
    (grpc_port,) = free_ports(1)
    repository = folder / "python_models"
    shutil.copytree(MODELS, repository)
    bring_environment(folder / "env", repository)
    address = f"--grpc-address=127.0.0.1:{grpc_port}"
    server = Server(folder, f"--model-repository={repository}", address)
    try:
        server.grpc = f"127.0.0.1:{grpc_port}"
        yield server.started()
        assert server.stop() == 0
    finally:
        server.kill()


@pytest.fixture(scope="module")
def http(served):
    client = tritonhttp.InferenceServerClient(f"127.0.0.1:{served.port}", concurrency=8, network_timeout=60)
    yield client
    client.close()


def tensor(name: str, array: np.ndarray) -> tritonhttp.InferInput:
    kinds = {"f": "FP32", "i": "INT32", "u": "UINT32", "O": "BYTES"}
    datatype = "UINT8" if array.dtype == np.uint8 else kinds[array.dtype.kind]
    made = tritonhttp.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def texts(*words: str, rows: bool = False) -> np.ndarray:
    array = np.array([word.encode() for word in words], dtype=np.object_)
    return array.reshape(-1, 1) if rows else array


def ask(http, model: str, **more):
    arrays = {name: value for name, value in more.items() if isinstance(value, np.ndarray)}
    options = {name: value for name, value in more.items() if name not in arrays}
    return http.infer(model, [tensor(*each) for each in arrays.items()], **options)


def ask_together(http, model: str, requests: list) -> list:
    """Ask at the same time. An error comes as its text."""
    handles = [http.async_infer(model, [tensor(*each) for each in arrays.items()]) for arrays in requests]
    answers = []
    for handle in handles:
        try:
            answers.append(handle.get_result())
        except InferenceServerException as error:
            answers.append(error.message())
    return answers


def error_of(http, model: str, **more) -> InferenceServerException:
    with pytest.raises(InferenceServerException) as caught:
        ask(http, model, **more)
    return caught.value


@pytest.mark.parametrize("model", ["add_sub", "jax", "pytorch", "nobatch_auto_complete"])
def test_model_adds_and_subtracts_as_it_does_in_triton(http, model):
    if model == "pytorch":
        pytest.importorskip("torch")
    answer = ask(http, model, INPUT0=FIRST, INPUT1=SECOND)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), FIRST + SECOND)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT1"), FIRST - SECOND)


def test_instance_group_is_the_number_of_workers(served):
    assert len(served.workers("add_sub")) == 2


def test_only_requested_outputs_are_sent(http):
    outputs = [tritonhttp.InferRequestedOutput("OUTPUT1")]
    answer = ask(http, "add_sub", INPUT0=FIRST, INPUT1=SECOND, outputs=outputs)
    assert [each["name"] for each in answer.get_response()["outputs"]] == ["OUTPUT1"]


def test_output_that_the_model_leaves_out_is_left_out(http):
    outputs = [tritonhttp.InferRequestedOutput(name) for name in ("MORE", "OUT")]
    answer = ask(http, "faulty", HOW=texts("one", rows=True), outputs=outputs)
    assert [each["name"] for each in answer.get_response()["outputs"]] == ["OUT"]


def test_torchserve_and_kserve_v1_clients_reach_the_same_model(served):
    body = json.dumps({"INPUT0": [1, 2, 3, 4], "INPUT1": [4, 4, 4, 4]})
    answer = served.predict("add_sub", body, "content-type: application/json").json()
    assert answer["OUTPUT0"] == [5, 6, 7, 8]
    rows = json.dumps({"instances": [{"HOW": ["one"]}, {"HOW": ["two"]}]}).encode()
    assert served.ask("POST", "/v1/models/faulty:predict", rows).json() == {"predictions": [[2], [2]]}


def test_torchserve_and_kserve_v1_clients_get_all_responses_of_a_decoupled_model(served):
    streamed = served.predict("square", '{"IN": [2]}', "content-type: application/json")
    assert streamed.body.count(b"2") >= 2
    rows = json.dumps({"instances": [{"IN": 2}]}).encode()
    assert served.ask("POST", "/v1/models/square:predict", rows).json() == {"predictions": [[2, 2]]}


def test_request_shows_the_model_everything_that_the_client_said(http):
    answer = ask(
        http, "context", IN=texts("tri", "ton\0"), request_id="seven", sequence_id=9, sequence_start=True,
        timeout=5_000_000, parameters={"flavor": "sweet"}, outputs=[tritonhttp.InferRequestedOutput("OUT"), tritonhttp.InferRequestedOutput("CONTEXT")],
    )  # fmt: skip
    assert list(answer.as_numpy("OUT")) == [b"TRI", b"TON\0"]
    known = json.loads(answer.as_numpy("CONTEXT")[0])
    assert known["args"].pop("model_instance_name").startswith("context_0_")
    assert known == {
        "args": {
            "model_instance_device_id": "0",
            "model_instance_kind": "CPU",
            "model_name": "context",
            "model_repository": "context",
            "model_version": "1",
        },
        "correlation_id": 9,
        "dir": "context/1",
        "flags": 1,
        "greeting": "hello",
        "id": "seven",
        "outputs": ["CONTEXT", "OUT"],
        "parameters": {"flavor": "sweet"},
        "timeout": True,
        "version": 1,
    }


def test_correlation_id_may_be_a_text(http):
    answer = ask(http, "context", IN=texts("a"), sequence_id="mine", sequence_end=True)
    known = json.loads(answer.as_numpy("CONTEXT")[0])
    assert (known["correlation_id"], known["flags"]) == ("mine", 2)
    assert known["outputs"] == ["CONTEXT", "OUT"]  # all, where the client names none


def test_log_lines_of_a_model_are_in_the_log_of_the_server(served, http):
    ask(http, "context", IN=texts("a", "b", "c"))
    until(lambda: "asked for 3 texts" in served.log)


@pytest.mark.parametrize(
    ("code", "status"), [(1, 500), (2, 404), (3, 400), (4, 503), (5, 501), (6, 409), (7, 499)]
)
def test_triton_error_has_the_status_of_its_code(served, code, status):
    body = {"inputs": [{"name": "HOW", "datatype": "BYTES", "shape": [1, 1], "data": [str(code)]}]}
    answer = served.ask("POST", "/v2/models/faulty/infer", json.dumps(body).encode())
    assert (answer.code, answer.json()) == (status, {"error": f"code {code}"})


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "ValueError: the model has had enough"),
        ("refuse", "the model refuses"),
        ("exit", "SystemExit: the model leaves"),
        ("surrogate", "ValueError: half a \\ud83d"),
        ("count", "InferenceRequest(s) size is:1, and InferenceResponse(s) size is:0"),
        ("empty", "the model gave a response without outputs"),
        ("kind", "Expected a list in the execute return, found type 'str'"),
        ("nothing", "Expected an 'InferenceResponse' object in the execute function return list, found type 'NoneType'"),
    ],
)  # fmt: skip
def test_fault_of_a_model_is_named(http, how, said):
    assert said in error_of(http, "faulty", HOW=texts(how, rows=True)).message()


@pytest.mark.parametrize("model", ["leaving", "leaving_async"])
def test_exit_in_a_decoupled_model_is_its_error(served, model):
    answer = served.ask("POST", f"/v2/models/{model}/generate_stream", b'{"IN": [1]}')
    assert b"SystemExit: the model leaves" in answer.body


def test_forked_process_that_comes_back_does_not_answer_for_the_worker(http):
    answers = [ask(http, "faulty", HOW=texts(how, rows=True)) for how in ("fork", "ok", "ok")]
    assert [each.as_numpy("OUT").tolist() for each in answers] == [[[1]]] * 3


def test_requests_of_a_batch_come_together_and_each_is_answered_by_itself(http):
    asked = [{"HOW": texts(how, rows=True)} for how in ("slow", "a", "b", "3", "sender")]
    _, first, second, third, fourth = ask_together(http, "faulty", asked)
    assert third == "code 3"
    assert [each.as_numpy("OUT")[0, 0] for each in (first, second, fourth)] == [4, 4, 4]


def test_exception_in_execute_fails_all_requests_of_the_batch(http):
    asked = [{"HOW": texts(how, rows=True)} for how in ("slow", "ok", "raise")]
    assert ask_together(http, "faulty", asked)[1:] == ["ValueError: the model has had enough"] * 2


def test_parameters_of_a_response_reach_the_client(http):
    answer = ask(http, "faulty", HOW=texts("alone", rows=True))
    assert answer.get_response()["parameters"] == {"together": 1}


def test_response_sender_answers_a_model_that_is_not_decoupled(http):
    assert ask(http, "faulty", HOW=texts("sender", rows=True)).as_numpy("OUT").tolist() == [[1]]


def test_image_is_preprocessed(http):
    file = BytesIO()
    Image.new("RGB", (16, 12), (255, 0, 51)).save(file, "PNG")
    data = np.frombuffer(file.getvalue(), np.uint8)[None]
    pixels = ask(http, "preprocessing", IMAGE=data).as_numpy("PIXELS")
    assert pixels.shape == (1, 3, 8, 8)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([1, 0, 0.2])


class Stream:
    """A stream of Triton's gRPC client. Its results come as (response, error)."""

    def __init__(self, address: str) -> None:
        self.results: queue.Queue = queue.Queue()
        self.client = tritongrpc.InferenceServerClient(address)
        self.client.start_stream(lambda result, error: self.results.put((result, error)))

    def send(self, model: str, final: bool = False, **arrays: np.ndarray) -> None:
        inputs = []
        for name, array in arrays.items():
            made = tritongrpc.InferInput(
                name, list(array.shape), {"i": "INT32", "u": "UINT32"}[array.dtype.kind]
            )
            made.set_data_from_numpy(array)
            inputs.append(made)
        self.client.async_stream_infer(model, inputs, enable_empty_final_response=final)

    def next(self):
        return self.results.get(timeout=30)


def grpc_tensor(name: str, value: int) -> tritongrpc.InferInput:
    made = tritongrpc.InferInput(name, [1], "UINT32" if name == "DELAY" else "INT32")
    made.set_data_from_numpy(np.array([value], np.uint32 if name == "DELAY" else np.int32))
    return made


@pytest.fixture
def stream(served):
    opened = Stream(served.grpc)
    yield opened
    opened.client.stop_stream(cancel_requests=True)
    opened.client.close()


@pytest.mark.parametrize("count", [0, 1, 4])
def test_decoupled_model_gives_any_number_of_responses(stream, count):
    stream.send("square", final=True, IN=np.array([count], np.int32))
    found = []
    while True:
        result, error = stream.next()
        assert error is None
        if result.get_response().parameters["triton_final_response"].bool_param:
            break
        found.append(result.as_numpy("OUT").tolist())
    assert found == [[count]] * count


@pytest.mark.parametrize("count", [0, 2])
def test_decoupled_model_is_refused_over_infer_in_the_words_of_triton(served, http, count):
    asked = np.array([count], np.int32)
    words = "doesn't support models with decoupled transaction policy"
    assert f"HTTP end point {words}" in error_of(http, "square", IN=asked).message()
    with tritongrpc.InferenceServerClient(served.grpc) as client:
        made = tritongrpc.InferInput("IN", [1], "INT32")
        made.set_data_from_numpy(asked)
        with pytest.raises(InferenceServerException, match=f"ModelInfer RPC {words}") as caught:
            client.infer("square", [made])
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_decoupled_model_streams_over_rest(served):
    answer = served.ask("POST", "/v2/models/square/generate_stream", b'{"IN": 3}')
    assert answer.body.count(b'"OUT":3') == 3
    empty = served.ask("POST", "/v2/models/square/generate_stream", b'{"IN": 0}')
    assert (empty.code, b"data" in empty.body) == (200, False)


def test_last_response_may_be_the_final_one(stream):
    values = np.array([7, 8], np.int32)
    stream.send("repeat", IN=values, DELAY=np.array([0, 1], np.uint32))
    results = [stream.next()[0] for _ in values]
    assert [each.as_numpy("OUT")[0] for each in results] == [7, 8]
    assert [each.get_response().parameters["triton_final_response"].bool_param for each in results] == [
        False,
        True,
    ]


def test_requests_of_a_decoupled_model_overlap(stream):
    stream.send("repeat", IN=np.array([1], np.int32), DELAY=np.array([2000], np.uint32))
    stream.send("repeat", IN=np.array([2], np.int32), DELAY=np.array([0], np.uint32))
    assert stream.next()[0].as_numpy("OUT")[0] == 2


def test_requests_that_wait_for_a_decoupled_model_share_a_call(stream):
    for _ in range(5):
        stream.send("together", IN=np.ones((1, 1), np.int32))
    found = [stream.next()[0].as_numpy("TOGETHER")[0, 0] for _ in range(5)]
    assert max(found) == 3


def test_error_of_one_request_does_not_wait_for_the_others(served):
    async def ask_both() -> str:
        async with tritonclient.grpc.aio.InferenceServerClient(served.grpc) as client:

            async def requests():
                for value, delay in ((1, 5000), (-1, 0)):  # in one message to the worker
                    yield {
                        "model_name": "repeat",
                        "inputs": [grpc_tensor("IN", value), grpc_tensor("DELAY", delay)],
                    }

            async for _, error in client.stream_infer(requests()):
                return error.message()
        return ""

    began = time.monotonic()
    assert "negative" in asyncio.run(ask_both())
    assert time.monotonic() - began < 4


def test_error_of_a_decoupled_model_ends_its_stream(stream):
    stream.send("repeat", IN=np.array([1, -1], np.int32), DELAY=np.array([0, 0], np.uint32))
    assert stream.next()[0].as_numpy("OUT")[0] == 1
    assert "negative" in stream.next()[1].message()


def test_decoupled_model_hears_that_its_client_has_gone(served):
    opened = Stream(served.grpc)
    opened.send("repeat", IN=np.array([1, 2], np.int32), DELAY=np.array([0, 60_000], np.uint32))
    assert opened.next()[0].as_numpy("OUT")[0] == 1
    opened.client.stop_stream(cancel_requests=True)
    opened.client.close()
    until(lambda: "repeat is cancelled" in served.log)


@pytest.mark.parametrize("model", ["add_sub", "pytorch", "jax", "ensemble_of_one"])
def test_model_asks_another_and_passes_its_answer_on(http, model):
    if model == "pytorch":
        pytest.importorskip("torch")
    answer = ask(http, "bls_sync", MODEL_NAME=texts(model), INPUT0=FIRST, INPUT1=SECOND)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), FIRST + SECOND)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT1"), FIRST - SECOND)


def test_model_asks_two_others_at_the_same_time(http):
    answer = ask(http, "bls_async", INPUT0=FIRST, INPUT1=SECOND)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), FIRST + SECOND)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT1"), FIRST - SECOND)


@pytest.mark.parametrize(("model", "times"), [("bls_decoupled_sync", 1), ("bls_decoupled_async", 2)])
def test_model_asks_a_decoupled_one(http, model, times):
    assert ask(http, model, IN=np.array([3], np.int32)).as_numpy("SUM").tolist() == [9 * times]
    assert ask(http, model, IN=np.array([0], np.int32)).as_numpy("SUM").tolist() == [0]


def test_model_that_calls_itself_is_refused(http):
    error = error_of(http, "bls_sync", MODEL_NAME=texts("bls_sync"), INPUT0=FIRST, INPUT1=SECOND)
    assert "model 'bls_sync' calls itself" in error.message()


def test_circle_of_models_is_refused_and_leaves_nothing_behind(http):
    for _ in range(2):
        message = error_of(http, "circle_a", IN=np.ones(1, np.int32)).message()
        assert (
            "model 'circle_b' calls 'circle_a' while it is waited for (circle_b -> circle_a -> circle_b)"
            in message
        )


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("load", "False True"),
        ("load_itself", "refused: failed to load 'bls_control': model 'bls_control' cannot load or unload itself"),
        ("load_nothing", "refused: failed to load 'nowhere': model 'nowhere' is not in the repository"),
        ("unknown", "2: "),
        ("invalid", "3: input 'INPUT1' is missing"),
        ("not_decoupled", "5: model 'square' gives more than one response to a request; call exec or async_exec with "),
        ("late", "4 True"),
        ("code", "6: code 6"),
    ],
)  # fmt: skip
def test_model_hears_what_became_of_its_call(http, what, said):
    answer = ask(http, "bls_control", WHAT=texts(what)).as_numpy("SAID")[0].decode()
    assert answer.startswith(said), answer


def test_model_that_is_called_hears_that_nobody_waits_for_its_caller(served):
    def cancellations() -> int:
        return served.log.count("repeat is cancelled")

    before = cancellations()
    with tritongrpc.InferenceServerClient(served.grpc) as client:
        made = tritongrpc.InferInput("WHAT", [1], "BYTES")
        made.set_data_from_numpy(texts("wait"))
        with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
            client.infer("bls_control", [made], client_timeout=0.5)
    until(lambda: cancellations() > before)


def test_metrics_of_a_model_are_shown(served, http):
    for value in (2, 3):
        total = ask(http, "custom_metrics", IN=np.array([value], np.float32)).as_numpy("OUT")
    assert total.tolist() == [5]
    with Wire(served.ports[2]) as wire:
        wire.send(request("GET", "/metrics"))
        shown = wire.answer().body.decode()
    assert "# HELP sent_total What was sent, added up" in shown
    assert 'sent_total{model="custom_metrics",version="1"} 5.0' in shown
    assert 'sent_last{model="custom_metrics",version="1"} 3.0' in shown
    assert 'sent_count{model="custom_metrics",version="1"} 2\n' in shown
    buckets = re.findall(r'sent_bucket{.*le="(.+?)".*} (\S+)', shown)
    assert buckets == [("0.5", "0"), ("2.5", "1"), ("+Inf", "2")]


def test_configuration_is_completed_by_the_model(http):
    config = http.get_model_config("nobatch_auto_complete")
    assert (config["max_batch_size"], config["backend"]) == (0, "python")
    assert [(each["name"], each["dims"]) for each in config["output"]] == [
        ("OUTPUT0", [4]),
        ("OUTPUT1", [4]),
    ]
    metadata = http.get_model_metadata("batch_auto_complete")
    assert metadata["inputs"] == [{"name": "IN", "datatype": "FP32", "shape": [-1, 2]}]
    completed = http.get_model_config("batch_auto_complete")
    assert completed["max_batch_size"] == 4
    assert "dynamic_batching" in completed


def test_completed_batch_size_holds(http):
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    answer = ask(http, "batch_auto_complete", IN=rows)
    np.testing.assert_array_equal(answer.as_numpy("OUT"), rows * 2)
    assert answer.as_numpy("ROWS").tolist() == [[3]] * 3
    assert "<= 4" in error_of(http, "batch_auto_complete", IN=np.zeros((5, 2), np.float32)).message()


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("raise RuntimeError('no mood')", "model.py, line 4: RuntimeError: no mood"),
        ("config.set_max_batch_size(2)\n        return config", "model.py, line 4: ValueError: model 'bad': max_batch_size is 4"),
        ("return 7", "must return a pb_utils.ModelConfig, and returned a int"),
        ("config.as_dict()['input'] = [{'name': 'x'}]\n        return config", "auto_complete_config: input 'x': data_type is missing"),
    ],
)  # fmt: skip
def test_fault_of_a_completion_is_named_and_loads_nothing(http, lines, why):
    code = f"class TritonPythonModel:\n    @staticmethod\n    def auto_complete_config(config):\n        {lines}\n    def execute(self, requests): pass\n"
    with pytest.raises(InferenceServerException, match=re.escape(why)):
        http.load_model(
            "bad",
            config='{"backend": "python", "max_batch_size": 4}',
            files={"file:1/model.py": code.encode()},
        )
    assert not http.is_model_ready("bad")


@pytest.mark.parametrize("model", ["environment_folder", "environment_tar"])
def test_model_runs_in_the_environment_that_it_brings(http, model):
    said = ask(http, model, IN=np.ones(1, np.int32)).as_numpy("OUT")[0].decode()
    word, prefix = said.split()
    assert word == "here"
    assert prefix.endswith("/env")


def test_environment_that_is_not_there_is_named(http):
    code = (MODELS / "environment_tar/1/model.py").read_bytes()
    config = {
        "backend": "python",
        "parameters": {"EXECUTION_ENV_PATH": {"string_value": "/nowhere/env.tar.gz"}},
    }
    why = "EXECUTION_ENV_PATH of model 'lost': /nowhere/env.tar.gz: No such file or directory"
    with pytest.raises(InferenceServerException, match=why):
        http.load_model("lost", config=json.dumps(config), files={"file:1/model.py": code})


def test_finalize_is_called_when_the_model_is_unloaded(served, http):
    http.unload_model("add_sub")
    until(lambda: "add_sub cleans up" in served.log)
    http.load_model("add_sub")


def test_many_calls_of_other_models_at_a_time(http):
    asked = {"MODEL_NAME": texts("add_sub"), "INPUT0": FIRST, "INPUT1": SECOND}
    for answer in ask_together(http, "bls_sync", [asked] * 8):
        np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), FIRST + SECOND)
