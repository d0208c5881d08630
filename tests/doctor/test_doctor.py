"""Each thing that keeps an installation from running here is named with its line; nothing of it is run."""

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from mooring.cli.commands import commands
from mooring.doctor.examination import examine_place
from mooring.doctor.findings import Verdict
from mooring.doctor.weights import _is_allowed, more_than_tensors

HANDLER = "import json\n\nclass Echo:\n    def handle(self, data, context):\n        return data\n"
CANARY = "import pathlib\npathlib.Path({!r}).touch()\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "store").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def mar(root):
    """Writes store/NAME.mar by hand."""

    def make(name="bell", files=(), **model):
        manifest = {"modelName": name, "modelVersion": "1.0", "handler": "handler.py"} | model
        place = root / "store" / f"{name}.mar"
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": manifest}))
            for file, text in {"handler.py": HANDLER, **dict(files)}.items():
                if text is not None:
                    archive.writestr(file, text)
        return place

    return make


def told(root, verdict=None):
    """``where`` -> what, of one verdict or of all."""
    found = examine_place(root).findings
    return {each.where: each.what for each in found if verdict in (None, each.verdict)}


def suggestion(root, where):
    return next(each.suggestion for each in examine_place(root).findings if each.where == where)


@pytest.mark.parametrize("command", [["torch-model-archiver"], [sys.executable, "-m", "mooring", "archive"]])
@pytest.mark.parametrize("form", ["default", "tgz", "no-archive"])
def test_a_healthy_archive_of_either_archiver_runs_as_it_is(tmp_path, root, command, form):
    if command == ["torch-model-archiver"]:
        command = [str(Path(sys.executable).parent / "torch-model-archiver")]
    (tmp_path / "echo.py").write_text(HANDLER)
    subprocess.run(
        [*command, "--model-name", "echo", "--version", "2.0", "--handler", str(tmp_path / "echo.py"),
         "--export-path", str(root / "store"), "--archive-format", form],
        check=True, capture_output=True, env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    report = examine_place(root)
    assert [each.what for each in report.findings] == ["model echo 2.0 runs as it is, with handler echo.py"]
    assert not report.needs_change


def test_a_gpu_library_is_named_with_the_line_that_imports_it(root, mar):
    mar(files={"handler.py": "import os\nfrom vllm import LLM\n" + HANDLER})
    assert told(root, "change") == {
        "store/bell.mar/handler.py:2": "imports vllm, which needs CUDA; it is not installed here"
    }


def test_a_missing_library_is_found_behind_the_models_own_modules(root, mar):
    mar(
        files={"handler.py": "import inner.deep\n" + HANDLER, "inner/deep.py": "\n\nimport no_such_library\n"}
    )
    assert list(told(root, "change")) == ["store/bell.mar/inner/deep.py:3"]
    assert "pip install no_such_library" in suggestion(root, "store/bell.mar/inner/deep.py:3")


def test_an_import_that_may_fail_is_no_fault(root, mar):
    source = "try:\n    import deepspeed\nexcept ImportError:\n    deepspeed = None\n"
    mar(files={"handler.py": source + HANDLER})
    assert not examine_place(root).needs_change
    assert list(told(root, "differs")) == ["store/bell.mar/handler.py:2"]


def test_an_import_whose_failure_is_raised_again_is_one(root, mar):
    source = "try:\n    import deepspeed\nexcept ImportError as error:\n    raise SystemExit(1) from error\n"
    mar(files={"handler.py": source + HANDLER})
    assert list(told(root, "change")) == ["store/bell.mar/handler.py:2"]


@pytest.mark.parametrize(("setting", "change"), [("false", True), ("true", False)])
def test_requirements_count_where_they_are_installed(root, mar, setting, change):
    (root / "config.properties").write_text(f"install_py_dep_per_model={setting}\n")
    files = {
        "handler.py": "import tinybell\n" + HANDLER,
        "requirements.txt": "./tinybell-2.0-py3-none-any.whl\n",
    }
    mar(files=files, requirementsFile="requirements.txt")
    assert examine_place(root).needs_change is change


def test_what_of_torchserves_package_is_not_here_is_named(root, mar):
    source = "from ts.torch_handler.base_handler import BaseHandler\nimport ts.torch_handler.distributed.base_pippy_handler\n"
    mar(files={"handler.py": source + HANDLER})
    assert list(told(root, "change")) == ["store/bell.mar/handler.py:2"]


def test_a_missing_handler_is_named(root, mar):
    mar(files={"handler.py": None}, handler="my_handler.py")
    assert (
        "the handler is missing: my_handler.py"
        in told(root, "change")["store/bell.mar/MAR-INF/MANIFEST.json"]
    )


def test_default_handlers_are_here_but_for_those_of_vendors(root, mar):
    mar("cats", {"handler.py": None}, handler="image_classifier")
    mar("talk", {"handler.py": None}, handler="vllm_handler")
    assert list(told(root, "change")) == ["store/talk.mar/MAR-INF/MANIFEST.json"]


@pytest.mark.parametrize(
    ("source", "line", "what"),
    [
        (HANDLER + "\nclass Other:\n    pass\n", 7, "this has Echo, Other"),
        ("class Echo:\n    pass\n", 1, "class Echo has no method 'handle'"),
        ("import json\n", 0, "this has neither"),
        ("x = (\n", 1, "not Python"),
    ],
)
def test_a_handler_that_cannot_be_loaded_is_named_with_its_line(root, mar, source, line, what):
    mar(files={"handler.py": source})
    where = f"store/bell.mar/handler.py{f':{line}' if line else ''}"
    assert what in told(root, "change")[where]


@pytest.mark.parametrize(
    "more",
    [
        "def handle(data, context):\n    pass\n",
        "handle = Echo().handle\n",
        "from json import dumps as handle\n",
        "async def handle(data, context):\n    pass\n",
    ],
)
def test_two_classes_beside_a_function_handle_are_no_fault(root, mar, more):
    mar(files={"handler.py": HANDLER + "\nclass Other:\n    pass\n\n" + more})
    assert not examine_place(root).needs_change


class Evil:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (exec, (CANARY.format(self.place),))


def saved(value, **options):
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_full_pickle_is_told_from_tensors_without_unpickling_it(tmp_path, zipped, protocol):
    torch = pytest.importorskip("torch")
    canary = tmp_path / "ran"
    options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    file = tmp_path / "model.pt"
    file.write_bytes(saved(torch.nn.Linear(2, 1).state_dict(), **options))
    assert more_than_tensors(file) == []
    file.write_bytes(saved({"w": torch.ones(1), "x": Evil(str(canary))}, **options))
    assert more_than_tensors(file) in (["builtins exec"], ["__builtin__ exec"])
    file.write_bytes(saved(torch.nn.Linear(2, 1), **options))
    assert "torch.nn.modules.linear Linear" in more_than_tensors(file)
    assert not canary.exists()


def test_what_weights_only_allows_is_what_torch_says_it_does():
    unpickler = pytest.importorskip("torch._weights_only_unpickler")
    names = [" ".join(name.rpartition(".")[::2]) for name in unpickler._get_allowed_globals()]
    assert [name for name in names if not _is_allowed(name)] == []
    for name in ("builtins eval", "torch load", "torch.nn.modules.linear Linear", "os system"):
        assert not _is_allowed(name)


def test_torchscript_is_not_taken_for_a_pickle(tmp_path):
    file = tmp_path / "model.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/constants.pkl", b"")
        archive.writestr("net/data.pkl", pickle.dumps(Evil("x")))
    assert more_than_tensors(file) == []


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"\x80\x02\x8e" + b"\xff" * 8, b"PK\x05\x06" + bytes(18), bytes(99)]
)
def test_weights_that_are_broken_break_nothing(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    assert more_than_tensors(tmp_path / "model.pt") == []


def test_a_full_pickle_names_the_line_to_change(root, mar):
    weights = {"model.pt": pickle.dumps(Evil("x"))}
    mar("base", {"handler.py": None, **weights}, handler="base_handler", serializedFile="model.pt")
    mar("own", {"handler.py": "import torch\nnet = torch.load('model.pt')\n" + HANDLER, **weights})
    found = told(root, "change")
    assert list(found) == ["store/base.mar/model.pt", "store/own.mar/handler.py:2"]
    assert "full pickle" in found["store/base.mar/model.pt"]
    assert "allow_pickle: true" in suggestion(root, "store/base.mar/model.pt")


def test_keys_of_a_models_config_are_judged_by_line(root, mar):
    mar(files={"c.yaml": "batchSize: 4\nmaxWorkers: many\nparallelType: tp\n"}, configFile="c.yaml")
    assert list(told(root, "change")) == ["store/bell.mar/c.yaml:2"]
    assert list(told(root, "differs")) == ["store/bell.mar/c.yaml:3"]


GROUP = "parallelType: tp\ntorchrun:\n  nproc-per-node: 2\n"


@pytest.mark.parametrize(
    ("config", "verdict", "what"),
    [
        (
            GROUP,
            "differs",
            "each worker is a parallel group of 2 processes on this machine, under torchrun's environment",
        ),
        (GROUP + "continuousBatching: true\n", "change", "continuousBatching cannot run in a parallel group"),
        (
            GROUP + "  nnodes: 2\n",
            "change",
            "torchrun.nnodes is 2, and a parallel group runs on one machine here",
        ),
    ],
)
def test_a_parallel_group_is_named_with_what_it_needs_or_why_it_cannot_run(root, mar, config, verdict, what):
    mar(files={"c.yaml": config}, configFile="c.yaml")
    assert list(told(root, verdict)) == ["store/bell.mar/c.yaml:2"]
    assert what in told(root, verdict)["store/bell.mar/c.yaml:2"]


def test_a_parallel_group_without_torch_needs_a_change(root, mar, monkeypatch):
    monkeypatch.setattr("mooring.doctor.model_archive.find_spec", lambda _: None)
    mar(files={"c.yaml": GROUP}, configFile="c.yaml")
    assert "need torch; it is not installed here" in told(root, "change")["store/bell.mar/c.yaml:2"]


def test_a_handler_with_processes_of_its_own_is_served_as_any_other(root, mar):
    mar(files={"c.yaml": "parallelType: custom\nparallelLevel: 2\n"}, configFile="c.yaml")
    assert "starts its processes by itself" in told(root, "differs")["store/bell.mar/c.yaml:1"]


def test_more_workers_than_the_machine_bears_are_a_line_to_change(root, mar):
    mar(files={"c.yaml": "batchSize: 4\nminWorkers: 100000\n"}, configFile="c.yaml")
    assert (
        "100000 workers are too many: this server has room for"
        in told(root, "change")["store/bell.mar/c.yaml:2"]
    )
    folder = root / "greedy"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text("def infer(x):\n    return {'y': x}\n")
    (folder / "config.toml").write_text("[workers]\nmin = 100000\nmax = 100000\n")
    assert "100000 workers are too many" in told(root, "change")["greedy/config.toml"]


def test_keys_of_the_configuration_are_judged_by_line(root):
    lines = [
        "# a comment", "inference_address=http://127.0.0.1:8080", "job_queue_size = none", "plugins_path=/plugins",
        "vmargs=-Xmx4g", "enable_model_api=true", "disable_token_authorization=true", "max_reqest_size=1",
    ]  # fmt: skip
    (root / "config.properties").write_text("\n".join(lines))
    change, differs = told(root, "change"), told(root, "differs")
    assert set(change) == {f"config.properties:{line}" for line in (3, 4)}
    assert "plugins" in change["config.properties:4"]
    assert set(differs) == {f"config.properties:{line}" for line in (5, 6, 8)}
    assert "token setting" in told(root, "runs")["config.properties:7"]
    assert suggestion(root, "config.properties:8") == "did you mean max_request_size?"


def test_a_log_configuration_is_read_as_the_server_reads_it(root):
    good = '<Configuration><Appenders><Console name="o"/>{}</Appenders><Loggers><Root level="info"/></Loggers></Configuration>'
    (root / "log4j2.xml").write_text(good.format('<Kafka name="k"/>'))
    assert "<Kafka> in line 1" in told(root, "differs")["log4j2.xml"]
    assert "log4j2.xml" in told(root, "runs")
    (root / "log4j2.xml").write_text("<Configuration>\n")
    assert "2: no XML" in told(root, "change")["log4j2.xml"]
    (root / "log4j2.xml").unlink()
    (root / "config.properties").write_text("job_queue_size=5\nvmargs=-Dlog4j.configurationFile=logs.xml\n")
    assert "no log configuration 'logs.xml'" in told(root, "differs")["config.properties:2"]
    (root / "logs.xml").write_text(good.format(""))
    assert "obeyed" in told(root, "runs")["logs.xml"]


def test_a_management_address_for_everybody_has_tokens_as_in_torchserve(root):
    (root / "config.properties").write_text("job_queue_size=5\nmanagement_address=http://0.0.0.0:8081\n")
    assert not told(root, "change")
    assert "tokens are needed" in told(root, "runs")["config.properties:2"]
    (root / "config.properties").write_text(
        "management_address=http://0.0.0.0:8081\ndisable_token_authorization=true\n"
    )
    assert not examine_place(root).needs_change


def test_a_plugin_and_a_key_file_are_named(root):
    (root / "plugins").mkdir()
    (root / "plugins" / "auth.jar").write_bytes(b"PK")
    (root / "key_file.json").write_text("{}")
    assert "plugin" in told(root, "change")["plugins/auth.jar"]
    assert "tokens" in told(root, "differs")["key_file.json"]


@pytest.fixture
def war(root):
    """Puts a workflow of the spec into a folder of the installation."""

    def put(spec, code="def pre(data, context):\n    return data\n", folder="store", **said):
        (root / folder).mkdir(exist_ok=True)
        with zipfile.ZipFile(root / folder / "wf.war", "w") as archive:
            said = {"workflowName": "wf", "specFile": "wf.yaml", "handler": "fn.py"} | said
            archive.writestr("WAR-INF/MANIFEST.json", json.dumps({"workflow": said}))
            archive.writestr("wf.yaml", spec)
            archive.writestr("fn.py", code)

    return put


def test_a_workflow_is_named_with_what_is_missing_of_it(root, mar, war):
    mar("m1")
    spec = "models:\n  min-workers: 1\n  m1:\n    url: m1.mar\n  m2:\n    url: m2.mar\n"
    war(spec + "dag:\n  pre: [m1]\n  m1: [m2]\n  m2: [post]\n")
    found = told(root)
    assert "workflow wf of pre, m1, m2, post cannot be registered" in found["store/wf.war"]
    assert "m2.mar, which is not in the store" in found["store/wf.war/wf.yaml:6"]
    assert "has no function post" in found["store/wf.war/fn.py"]


def test_a_workflow_that_has_all_it_needs_runs_wherever_its_store_is(root, mar, war):
    mar("m1")
    (root / "config.properties").write_text("model_store=store\nworkflow_store=workflows\n")
    war("models: {m1: {url: m1.mar}, m2: {url: m2.mar}}\ndag: {pre: [m1]}\n", folder="workflows")
    assert "workflow wf of pre, m1" in told(root, "runs")["workflows/wf.war"]
    assert "workflow_store" not in str(told(root))
    assert "m2 of its models are on no path" in told(root, "differs")["workflows/wf.war/wf.yaml"]


@pytest.mark.parametrize(
    ("spec", "said", "message"),
    [
        ("dag: {pre: [post], post: [pre]}", {}, "store/wf.war/wf.yaml: dag: pre -> post -> pre is a cycle"),
        (
            "models: {batch-size: no}\ndag: {pre: []}",
            {},
            "models.batch-size = False: expected a whole number",
        ),
        ("dag: {pre: []}", {"specFile": "gone.yaml"}, "'gone.yaml' that is not in it"),
        ("dag: {pre: []}", {"handler": "gone.py"}, "'gone.py' that is not in it"),
    ],
)
def test_a_workflow_that_cannot_be_read_is_named_with_the_file_and_the_key(root, war, spec, said, message):
    war(spec, **said)
    assert message in told(root, "change")["store/wf.war"]


def test_a_workflows_handler_that_is_no_python_is_named_with_its_line(root, war):
    war("dag: {pre: []}", code="def pre(data, context):\n    return (\n")
    assert "is not Python" in told(root, "change")["store/wf.war/fn.py:2"]


def test_mlservers_models_are_recognised(root):
    (root / "iris").mkdir()
    said = {
        "name": "iris",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./m.joblib"},
    }
    (root / "iris" / "model-settings.json").write_text(json.dumps(said, indent=1))
    assert "MLServer's model iris" in told(root, "change")["iris/model-settings.json:3"]
    assert "./m.joblib" in suggestion(root, "iris/model-settings.json:3")


@pytest.mark.parametrize(
    ("line", "verdict", "said"),
    [
        ("input { name: 'x' data_type: TYPE_FP32 dims: [1] reshape { shape: [] } }", "runs", "runs as it is"),
        (
            "dynamic_batching { preferred_batch_size: [ 4 ] }",
            "differs",
            "preferred_batch_size has no effect here",
        ),
        (
            "input { name: 'x' data_type: TYPE_FP32 dims: [1] reshap { } }",
            "change",
            "input[0].reshap: unknown key",
        ),
        ("sequence_batching { state { } }", "change", "sequence_batching: state '': data_type is missing"),
        ("max_batch_size: 8 sequence_batching { direct { } }", "runs", "runs as it is"),
    ],
)
def test_a_key_of_tritons_is_judged_as_the_server_judges_it(root, line, verdict, said):
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "1" / "model.py").write_text("def infer(x): return x")
    (root / "m" / "config.pbtxt").write_text(f'backend: "python"\n{line}\n')
    assert any(said in text for text in told(root, verdict).values())


def test_a_repository_of_tritons_is_recognised(root):
    good, python, old = (root / name for name in ("good", "py", "old"))
    for folder in (good, python, old):
        (folder / "1").mkdir(parents=True)
    tensors = 'input [{name: "x" data_type: TYPE_FP32 dims: [2]}]\noutput [{name: "y" data_type: TYPE_FP32 dims: [2]}]\n'
    (good / "config.pbtxt").write_text(f'platform: "onnxruntime_onnx"\n{tensors}optimization {{ }}\n')
    (good / "1" / "model.onnx").write_bytes(onnx_model())
    (python / "config.pbtxt").write_text(f'backend: "python"\n{tensors}')
    (python / "1" / "model.py").write_text(
        "import triton_python_backend_utils as pb\nclass TritonPythonModel: pass\n"
    )
    (old / "config.pbtxt").write_text(f'platform: "tensorflow_graphdef"\n{tensors}')
    found = told(root)
    assert "runs as it is, by the backend onnx" in found["good/config.pbtxt"]
    assert (
        found["good/config.pbtxt:4"] == "optimization has no effect here: how Triton's backends run the model"
    )
    assert "class TritonPythonModel has no method execute" in found["py/1/model.py:2"]
    (python / "1" / "model.py").write_text(
        "import triton_python_backend_utils as pb\nclass TritonPythonModel:\n    def execute(self, requests): ...\n"
    )
    assert "runs as it is, by the backend triton_python" in told(root)["py/config.pbtxt"]
    parameter = 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "env" } }'
    (python / "config.pbtxt").write_text(f'backend: "python"\n{tensors}{parameter}\n')
    assert "names an environment that is not there" in told(root, "change")["py/config.pbtxt"]
    (python / "env").mkdir()
    assert "in the environment env" in told(root)["py/config.pbtxt"]
    assert "tensorflow_graphdef" in told(root, "change")["old/config.pbtxt"]


def onnx_model(dims=(2,), **options):
    """One that adds 1 to its input."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "b"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, dims), *options.get("inputs", ())],
        [value("y", TensorProto.FLOAT, dims)],
        [numpy_helper.from_array(np.ones(1, np.float32), "b")],
    )
    opset = [helper.make_opsetid("", 17)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=options.get("ir_version", 9))
    return made.SerializeToString()


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("FP32 dims: [ 2 ]", None),
        ("FP32 dims: [ -1 ]", "declares input 'x' as FP32 [-1]; m/1/model.onnx has it as FP32 [2]"),
        ("FP32 dims: [ 3 ]", "declares input 'x' as FP32 [3]; m/1/model.onnx has it as FP32 [2]"),
        ("INT32 dims: [ 2 ]", "declares input 'x' as INT32 [2]; m/1/model.onnx has it as FP32 [2]"),
    ],
)
def test_a_configuration_that_an_onnx_file_contradicts_does_not_run(root, declared, said):
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "1" / "model.onnx").write_bytes(onnx_model())
    (root / "m" / "config.pbtxt").write_text(
        f'backend: "onnxruntime"\ninput {{ name: "x" data_type: TYPE_{declared} }}\n'
    )
    if said is None:
        assert "model m 1 runs as it is, by the backend onnx" in told(root, "runs").values()
    else:
        assert told(root, "change")["m/config.pbtxt"] == f"the configuration {said}"
        assert suggestion(root, "m/config.pbtxt").startswith("mend that")


@pytest.mark.parametrize("size", [0, 20, 60])
def test_a_file_that_is_no_onnx_model_does_not_run(root, size):
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "1" / "model.onnx").write_bytes(onnx_model()[:size])
    assert told(root, "change")["m"] == "m/1/model.onnx cannot be loaded: no model can be read of it"


def test_a_fault_of_a_configuration_is_told_with_its_file_once(root):
    version(root / "m", "1")
    (root / "m" / "config.pbtxt").write_text('backend: "python"\nmax_batchsize: 8\n')
    said = "max_batchsize: unknown key; did you mean 'max_batch_size'?"
    assert told(root, "change")["m/config.pbtxt"] == said


def version(folder, *versions):
    for each in versions:
        (folder / each).mkdir(parents=True)
        (folder / each / "model.py").write_text("def infer(inputs):\n    return {'y': 1}\n")


def test_it_says_which_version_answers_and_which_are_not_loaded(root):
    version(root / "m", "1", "2", "10", "002")
    (root / "m" / "config.pbtxt").write_text(
        'backend: "python"\nversion_policy { latest { num_versions: 2 } }\n'
    )
    findings = [each for each in examine_place(root).findings if each.where.startswith("m/")]
    assert [each.what for each in findings if each.verdict == "runs"] == [
        "model m 2 runs as it is, by the backend function",
        "model m 10 runs as it is, by the backend function",
        "version_policy is latest 2: serves 2, 10; 1 not loaded; a request without a version is answered by 10",
    ]
    assert told(root, "differs")["m/002"].startswith("is not served: a version is a whole number")
    assert suggestion(root, "m/002") == "rename it to 2"


def test_folders_that_cannot_be_models_are_named_where_the_others_are(root):
    version(root / "good", "1")
    version(root / "org" / "bert", "1")
    (root / "empty").mkdir()
    (root / "is_dangling_link").symlink_to("/nowhere")
    change = told(root, "change")
    assert "move org/bert up into the repository" in change["org"]
    assert "the folder is empty" in change["empty"]
    assert "/nowhere is not there" in change["is_dangling_link"]
    assert [where for where in told(root, "runs") if where.startswith("org")] == []


def test_a_folder_alone_is_judged_as_the_server_would_that_is_started_with_it(tmp_path):
    (tmp_path / "repository" / "flat").mkdir(parents=True)
    (tmp_path / "repository" / "flat" / "model.onnx").write_bytes(onnx_model())
    assert "model flat 1 runs as it is" in told(tmp_path / "repository", "runs")["flat"]
    assert "model flat 1 runs as it is" in told(tmp_path / "repository" / "flat", "runs")["flat"]


def test_a_store_beside_a_repository_is_looked_into(root, mar):
    version(root / "good", "1")
    mar()
    assert set(told(root)) == {"good", "store/bell.mar"}


def test_no_code_of_an_archive_is_run(root, mar, tmp_path):
    canary = CANARY.format(str(tmp_path / "ran"))
    files = dict.fromkeys(
        ("handler.py", "net.py", "helper.py", "setup.py", "sitecustomize.py"), canary + HANDLER
    )
    mar(files={**files, "handler.py": "import helper\n" + canary + HANDLER}, modelFile="net.py")
    examine_place(root)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../../escaped.py", "/tmp/escaped.py", "a/../../escaped.py"])
def test_an_archive_that_leads_elsewhere_is_refused_and_writes_nothing(root, mar, tmp_path, name):
    mar(files={name: "x"})
    assert "leads out" in told(root, "change")["store/bell.mar"]
    assert not list(tmp_path.rglob("escaped.py"))


def test_links_bombs_and_rubbish_are_refused(root):
    with tarfile.open(root / "store" / "link.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("link/handler.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with zipfile.ZipFile(root / "store" / "bomb.mar", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(65 << 20))
    (root / "store" / "rubbish.mar").write_bytes(b"nothing")
    (root / "store" / "out.mar").symlink_to("/etc/hostname")
    assert set(told(root, "change")) == {
        f"store/{name}" for name in ("link.tar.gz", "bomb.mar", "rubbish.mar", "out.mar")
    }


def test_names_that_would_steer_a_terminal_are_escaped(root, mar):
    mar(files={"handler.py": None}, handler="\x1b[31mred.py")
    done = CliRunner().invoke(commands, ["doctor", str(root)])
    assert "\x1b" not in done.output
    assert "\\x1b[31mred" in done.output


def test_the_command_says_it_in_lines_and_in_json_and_by_its_status(root, mar):
    mar()
    healthy = CliRunner().invoke(commands, ["doctor", str(root)])
    assert (healthy.exit_code, healthy.stdout.splitlines()[-1]) == (
        0, "1 runs as it is, 0 behave differently, 0 need a change",
    )  # fmt: skip
    mar("sick", {"handler.py": "import vllm\n" + HANDLER})
    assert (
        "change  store/sick.mar/handler.py:1: imports vllm"
        in CliRunner().invoke(commands, ["doctor", str(root)]).stdout
    )
    done = CliRunner().invoke(commands, ["doctor", "--json", str(root)])
    assert done.exit_code == 1
    assert {each["verdict"] for each in json.loads(done.stdout)["findings"]} == {"runs", "change"}


def test_one_archive_alone_can_be_asked_about(mar):
    assert [each.verdict for each in examine_place(mar()).findings] == ["runs"]


def test_a_folder_with_nothing_in_it_says_so(root):
    assert examine_place(root).needs_change


def test_a_store_beside_the_folder_is_followed(root, tmp_path, mar):
    mar()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "config.properties").write_text(f"model_store={root / 'store'}\n")
    assert any("model bell" in each.what for each in examine_place(tmp_path / "etc").findings)


def test_what_cannot_be_read_is_told_and_the_rest_is_read(root, mar):
    deep = "x = " + "a" + ".b" * 2000 + "()\n"
    mar("deep", {"handler.py": deep + HANDLER, "model.pt": pickle.dumps(Evil("x"))})
    mar()
    os.mkfifo(root / "store" / "pipe.mar")
    os.mkfifo(root / "x.properties")
    (root / "store" / "gone.mar").symlink_to("nowhere.mar")
    found = told(root)
    assert "runs as it is" in found["store/bell.mar"]
    assert any(where.startswith("store/deep.mar") for where in told(root, "change"))
    assert "store/gone.mar" in told(root, "change")


@pytest.mark.parametrize(
    "line",
    [
        'torch.device("cuda:0")',
        "self.model.cuda()",
        'torch.load("w", map_location="cuda")',
        'self.model.to("cuda")',
        "self.model.to(device='cuda:1')",
    ],
)
@pytest.mark.parametrize("there", [{"CPU": 2}, {"CPU": 2, "NVIDIA H200": 1}], ids=["none", "one"])
def test_a_device_that_is_taken_for_granted_is_named_where_the_machine_has_none(
    root, mar, monkeypatch, line, there
):
    monkeypatch.setattr("mooring.doctor.libraries.find_devices", lambda: there)
    mar(files={"handler.py": f"{HANDLER}\n    def initialize(self, context):\n        {line}\n"})
    found = told(root, Verdict.CHANGE)
    if len(there) == 1:
        assert "CUDA device" in found["store/bell.mar/handler.py:8"]
    else:
        assert not found


@pytest.mark.parametrize(
    "line",
    [
        'torch.device("cuda" if torch.cuda.is_available() else "cpu")',
        'torch.device("cuda:0") if context.system_properties.get("gpu_id") else torch.device("cpu")',
        'torch.device("cpu")',
        'print("cuda")',
    ],
)
def test_a_device_that_is_asked_for_with_care_is_no_fault(root, mar, monkeypatch, line):
    monkeypatch.setattr("mooring.doctor.libraries.find_devices", lambda: {"CPU": 2})
    mar(files={"handler.py": f"{HANDLER}\n    def initialize(self, context):\n        {line}\n"})
    assert not told(root, Verdict.CHANGE)


def test_a_folder_that_this_user_may_not_read_is_a_finding_and_no_end(tmp_path, monkeypatch):
    for name in ("closed", "open"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.py").write_text("def infer(x: int) -> int:\n    return x\n")
    known = Path.stat

    def refuse(path, **options):
        if path.parent.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return known(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda place, mode: Path(place).name != "closed" and access(place, mode)
    )
    found = {each.where: each.what for each in examine_place(tmp_path).findings}
    assert found.pop("closed") == "cannot be read by this user"
    assert list(found) == ["open"]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.mar")
    (finding,) = examine_place(tmp_path / "model.mar").findings
    assert finding.what == "is neither a file nor a folder"
