"""Exported programs, TorchScript, and weights with their module: what they are called with, and what is said of faults."""

import importlib.util
import sys
import warnings

import numpy as np
import psutil
import pytest
import torch
from model_kit import model_spec
from torch import nn

from mooring.backends import onednn_layout
from mooring.backends.backend import create_backend
from mooring.backends.programs import flatten_outputs
from mooring.backends.pytorch import PyTorchBackend, match_names
from mooring.core.errors import InvalidInput, InvalidOutput, ModelFailed, ModelLoadFailed
from mooring.core.options import BatchMode
from mooring.core.requests import InferenceRequest, RequestedOutput
from mooring.core.service import JoiningState, LoadContext
from mooring.core.tensors import Tensor, TensorSpec
from mooring.repository.preloads import preload

BATCH = torch.export.Dim("batch")


class Net(nn.Module):
    """Every feature times its weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x):
        return x * self.weight


class Pair(nn.Module):
    def forward(self, a, b):
        return a + b, a - b


class Doubled(nn.Module):
    def forward(self, x):
        return {"y": torch.cat([x, x])}


class Nested(nn.Module):
    def forward(self, a, more, *, flag=True):
        b, c = more
        return (a + b, {"k": c * 2}, None)


@pytest.fixture
def export(tmp_path):
    def export(module, *arguments, shapes, name="model.pt2", **keywords):
        program = torch.export.export(module.eval(), arguments, keywords or None, dynamic_shapes=shapes)
        torch.export.save(program, tmp_path / name)
        return tmp_path / name

    return export


@pytest.fixture
def net(export):
    return export(Net(), torch.ones(2, 3), shapes={"x": {0: BATCH}})


@pytest.fixture
def script(tmp_path):
    def script(module, *examples):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            made = torch.jit.trace(module.eval(), examples) if examples else torch.jit.script(module.eval())
            made.save(str(tmp_path / "model.pt"))
        return tmp_path / "model.pt"

    return script


@pytest.fixture
def load():
    threads = torch.get_num_threads()

    def load(file, context=None, *, tried=True, **more):
        """With ``tried`` as it is once a trial has shown that rows are independent."""
        more = {"max_batch_size": 8, "size_by_default": True, **more}
        spec = model_spec(
            name="m", version="1", backend="pytorch", location=str(file.parent), entry=file.name, **more
        )
        backend = PyTorchBackend()
        backend.metadata = backend.load(spec, context or LoadContext())
        if tried and backend.joining.state is JoiningState.UNTRIED:
            backend.join_requests()
        return backend

    yield load
    torch.set_num_threads(threads)


def one(backend, reply, request):
    (outcome,) = backend.infer([request], reply)
    return outcome


def spec(name, datatype="FP32", shape=(-1, 3)):
    return TensorSpec(name, datatype, list(shape))


def rows(*sizes):
    return [np.full((size, 3), size, np.float32) for size in sizes]


def watch(backend):
    """The shapes of what the program is called with."""
    seen = []
    call = backend._program.call

    def recording_call(values):
        seen.append([tuple(value.shape) for value in values.values()])
        return call(values)

    object.__setattr__(backend._program, "call", recording_call)
    return seen


def test_a_program_says_what_it_takes_and_gives(net, load):
    model = load(net)
    assert model.metadata.inputs == [spec("x")]
    assert model.metadata.outputs == [spec("OUTPUT0")]
    assert model.metadata.platform == "pytorch_exported"


def test_a_program_answers_every_form(net, load, reply, ask):
    model = load(net)
    assert ask.read(one(model, reply, ask.tensors(x=np.ones((1, 3), np.float32)))) == {"OUTPUT0": [[1, 2, 3]]}
    assert ask.read(one(model, reply, ask.body({"x": [[1, 1, 1]]}))) == {"OUTPUT0": [[1, 2, 3]]}
    assert ask.read(one(model, reply, ask.instances([1, 1, 1], [2, 2, 2]))) == [[1, 2, 3], [2, 4, 6]]


def test_requests_share_a_call_along_the_open_dimension(net, load, reply, ask):
    model = load(net)
    seen = watch(model)
    outcomes = model.infer([ask.tensors(x=array) for array in rows(1, 2, 3)], reply)
    assert seen == [[(6, 3)]]
    assert [np.shape(ask.read(outcome)["OUTPUT0"]) for outcome in outcomes] == [(1, 3), (2, 3), (3, 3)]


def test_a_program_of_a_fixed_shape_takes_requests_one_by_one(export, load, reply, ask):
    model = load(export(Net(), torch.ones(1, 3), shapes=None))
    seen = watch(model)
    model.infer([ask.tensors(x=array) for array in rows(1, 1)], reply)
    assert seen == [[(1, 3)], [(1, 3)]]
    with pytest.raises(InvalidInput, match=r"\[1, 3\]"):
        ask.read(one(model, reply, ask.tensors(x=rows(2)[0])))


def test_an_output_of_twice_the_rows_is_no_batch(export, load, reply, ask):
    for asked in (False, True):
        model = load(export(Doubled(), torch.ones(2, 3), shapes={"x": {0: BATCH}}), size_by_default=not asked)
        outcomes = model.infer([ask.tensors(x=array) for array in rows(1, 2)], reply)
        assert [np.shape(ask.read(outcome)["y"]) for outcome in outcomes] == [(2, 3), (4, 3)]


def test_nested_arguments_and_results_have_names(export, load, reply, ask):
    file = export(
        Nested(),
        torch.ones(2, 3),
        (torch.ones(2, 3), torch.ones(2, 3)),
        shapes={"a": {0: BATCH}, "more": ({0: BATCH}, {0: BATCH}), "flag": None},
        flag=True,
    )
    model = load(file)
    assert [each.name for each in model.metadata.inputs] == ["a", "more_0", "more_1"]
    ones = np.ones((1, 3), np.float32)
    answer = ask.read(one(model, reply, ask.tensors(a=ones, more_0=ones, more_1=ones)))
    assert answer == {"OUTPUT0": [[2, 2, 2]], "k": [[2, 2, 2]]}


def test_declared_names_stand_for_the_programs_by_their_order(net, load, reply, ask):
    model = load(net, inputs=[spec("image")], outputs=[spec("scores")])
    assert ask.read(one(model, reply, ask.tensors(image=rows(1)[0]))) == {"scores": [[1, 2, 3]]}


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"inputs": [spec("x", shape=(-1, 4))]}, r"as FP32 \[-1, 4\]; .*model.pt2 has it as FP32 \[-1, 3\]"),
        ({"inputs": [spec("x", "FP64")]}, "as FP64"),
        ({"outputs": [spec("y", "INT8")]}, "output 'y' as INT8"),
        ({"inputs": [spec("x"), spec("z")]}, "takes 'x'; the configuration declares 'x', 'z'"),
    ],
)
def test_a_configuration_that_disagrees_is_refused(net, load, more, match):
    with pytest.raises(ModelLoadFailed, match=match):
        load(net, **more)


def test_what_the_guards_of_a_program_refuse_is_the_callers_fault(export, load, reply, ask):
    batch = torch.export.Dim("batch", max=4)
    model = load(export(Net(), torch.ones(2, 3), shapes={"x": {0: batch}}), max_batch_size=1)
    with pytest.raises(InvalidInput, match="Guard failed"):
        ask.read(one(model, reply, ask.tensors(x=rows(5)[0])))


KINDS = [
    (torch.bool, "BOOL"),
    (torch.uint8, "UINT8"),
    (torch.int8, "INT8"),
    (torch.int16, "INT16"),
    (torch.int32, "INT32"),
    (torch.int64, "INT64"),
    (torch.float16, "FP16"),
    (torch.float64, "FP64"),
]


class Same(nn.Module):
    def forward(self, x):
        return x.clone()


@pytest.mark.parametrize(("kind", "datatype"), KINDS, ids=[each[1] for each in KINDS])
def test_types_come_back_as_they_went_in(export, load, reply, ask, kind, datatype):
    model = load(export(Same(), torch.ones(2, dtype=kind), shapes={"x": {0: BATCH}}))
    request = ask.tensors(x=torch.tensor([1, 0, 1], dtype=kind).numpy())
    outcome = one(model, reply, request)
    assert (outcome.outputs[0].datatype, outcome.outputs[0].data) == (datatype, request.inputs[0].data)


def test_bfloat16_goes_in_and_out_by_its_bits(export, load, reply):
    model = load(export(Same(), torch.ones(2, dtype=torch.bfloat16), shapes={"x": {0: BATCH}}))
    data = np.array([0x3F80, 0xC000], np.uint16).tobytes()
    outcome = one(model, reply, InferenceRequest("m", "1", "id", [Tensor("x", "BF16", [2], data)]))
    assert (outcome.outputs[0].datatype, outcome.outputs[0].data) == ("BF16", data)


def test_a_script_takes_what_nobody_declared_by_number_and_in_its_own_type(script, load, reply, ask):
    model = load(script(Net()))
    assert model.metadata.platform == "pytorch_torchscript"
    # JSON has doubles; the weights are floats.
    assert ask.read(one(model, reply, ask.body([1, 1.5, 2]))) == {"OUTPUT0": [1, 3, 6]}
    assert ask.read(one(model, reply, ask.tensors(INPUT0=rows(1)[0]))) == {"OUTPUT0": [[1, 2, 3]]}
    assert ask.read(one(model, reply, ask.instances([1, 1, 1], [2, 2, 2]))) == [[1, 2, 3], [2, 4, 6]]
    with pytest.raises(InvalidInput, match="unexpected input 'y'; the model takes 'x'"):
        ask.read(one(model, reply, ask.tensors(y=rows(1)[0])))


def untyped(name, **more):
    return TensorSpec(name, "", [], unknown_rank=True, **more)


class Optional(nn.Module):
    def forward(self, x, scale: torch.Tensor | None = None, exact: bool = True):
        return x if scale is None else x * scale


class Named(nn.Module):
    def forward(self, x):
        return {"double": x * 2}


@pytest.mark.parametrize(
    ("module", "inputs", "outputs"),
    [
        (Net, [untyped("x")], [untyped("OUTPUT0")]),
        (Pair, [untyped("a"), untyped("b")], [untyped("OUTPUT0"), untyped("OUTPUT1")]),
        (Optional, [untyped("x"), untyped("scale", optional=True)], [untyped("OUTPUT0")]),
        (Named, [untyped("x")], []),
    ],
)
def test_a_scripts_metadata_names_what_infer_takes(script, load, reply, ask, module, inputs, outputs):
    model = load(script(module()))
    assert (model.metadata.inputs, model.metadata.outputs) == (inputs, outputs)
    sent = {each.name: rows(1)[0] for each in inputs if not each.optional}
    answer = ask.read(one(model, reply, ask.tensors(**sent)))
    assert not outputs or list(answer) == [each.name for each in outputs]


@pytest.mark.parametrize("form", ["{name}", "INPUT{index}", "INPUT__{index}"])
def test_a_script_takes_its_arguments_by_name_or_by_number(script, load, reply, ask, form):
    model = load(script(Pair()))
    names = [form.format(name=name, index=index) for index, name in enumerate("ab")]
    sent = dict(zip(names, (rows(3)[0], rows(2)[0][:1].repeat(3, 0)), strict=True))
    assert ask.read(one(model, reply, ask.tensors(**sent))) == {
        "OUTPUT0": [[5, 5, 5]] * 3,
        "OUTPUT1": [[1, 1, 1]] * 3,
    }
    asked = ask.tensors(**sent)
    asked.outputs = [RequestedOutput("OUTPUT__1"), RequestedOutput("OUTPUT0")]
    assert list(ask.read(one(model, reply, asked))) == ["OUTPUT__1", "OUTPUT0"]


def test_whole_numbers_for_a_script_of_floats_are_told_with_what_to_send(script, load, reply, ask):
    model = load(script(torch.nn.Linear(3, 1)))
    failed = one(model, reply, ask.tensors(input=np.int64([[1, 2, 3]])))
    assert failed.message.endswith("send 1.0 in place of 1, or declare the inputs in a config.toml")
    assert "send 1.0" not in one(model, reply, ask.tensors(input=np.float32([[1, 2]]))).message


def test_an_argument_that_is_sent_by_two_names_is_refused(script, load, reply, ask):
    model = load(script(Net()))
    with pytest.raises(InvalidInput, match="inputs 'x', 'INPUT0' name an argument twice"):
        ask.read(one(model, reply, ask.tensors(x=rows(1)[0], INPUT0=rows(1)[0])))


def test_a_script_without_arguments_is_asked_with_nothing(script, load, reply, ask):
    class Constant(nn.Module):
        def forward(self):
            return torch.tensor([4.0])

    model = load(script(Constant()))
    for request in (ask.tensors(), ask.body(b""), ask.body({})):
        assert ask.read(one(model, reply, request)) == {"OUTPUT0": [4.0]}
    assert ask.read(one(model, reply, ask.instances({}))) == [[4.0]]


def test_a_script_joins_only_what_its_configuration_says_is_a_batch(script, load, reply, ask):
    file = script(Net())
    for more, calls in [
        ({}, [[(1, 3)], [(2, 3)]]),
        ({"size_by_default": False}, [[(3, 3)]]),
        ({"inputs": [spec("x")], "outputs": [spec("y")]}, [[(3, 3)]]),
    ]:
        model = load(file, **more)
        seen = watch(model)
        name = more["inputs"][0].name if "inputs" in more else "INPUT0"
        model.infer([ask.tensors(**{name: array}) for array in rows(1, 2)], reply)
        assert seen == calls


@pytest.mark.parametrize(
    "names", [("a", "b"), ("b", "a"), ("INPUT__0", "INPUT__1"), ("INPUT__1", "INPUT__0"), ("x", "y")]
)
def test_declared_names_are_the_arguments_or_their_numbers_or_in_their_order(script, load, reply, ask, names):
    model = load(script(Pair()), inputs=[spec(name) for name in names], outputs=[spec("sum"), spec("rest")])
    first = {"a": "a", "INPUT__0": "INPUT__0"}.get(min(names), names[0])
    second = next(name for name in names if name != first)
    three, one_ = np.full((1, 3), 3, np.float32), np.ones((1, 3), np.float32)
    answer = ask.read(one(model, reply, ask.tensors({}, **{first: three, second: one_})))
    assert answer == {"sum": [[4, 4, 4]], "rest": [[2, 2, 2]]}


def test_a_missing_argument_is_named_as_clients_know_it(script, load, reply, ask):
    with pytest.raises(InvalidInput, match="input 'b' is missing"):
        ask.read(one(load(script(Pair())), reply, ask.tensors(INPUT0=rows(1)[0])))


def test_single_samples_are_stacked(script, load, reply, ask):
    for inputs in ([], [spec("x", shape=[3])]):
        model = load(script(Net()), mode=BatchMode.STACK, inputs=inputs)
        seen = watch(model)
        name = "x" if inputs else "INPUT0"
        outcomes = model.infer([ask.tensors(**{name: np.full(3, n, np.float32)}) for n in (1, 2)], reply)
        assert seen == [[(2, 3)]]
        assert [ask.read(each) for each in outcomes] == [{"OUTPUT0": [1, 2, 3]}, {"OUTPUT0": [2, 4, 6]}]


def test_fewer_outputs_than_declared_are_an_invalid_output(script, load, reply, ask):
    model = load(script(Net()), inputs=[spec("x")], outputs=[spec("y"), spec("z")])
    with pytest.raises(InvalidOutput, match="returned 1 outputs; 2 are declared"):
        ask.read(one(model, reply, ask.tensors(x=rows(1)[0])))


def test_what_a_model_raises_is_its_failure_in_a_line(script, load, reply, ask):
    with pytest.raises(ModelFailed, match=r"^RuntimeError: The size of tensor a \(4\)") as caught:
        ask.read(one(load(script(Net())), reply, ask.tensors(INPUT0=np.ones((1, 4), np.float32))))
    assert "Traceback" in caught.value.detail


class InPlace(nn.Module):
    def forward(self, x):
        return x.add_(1)


def test_a_model_that_works_in_place_does_not_change_the_request(script, load, reply, ask):
    model = load(script(InPlace()))
    request = ask.tensors(INPUT0=rows(1)[0])
    before = bytes(request.inputs[0].data)
    for _ in range(2):
        assert ask.read(one(model, reply, request)) == {"OUTPUT0": [[2, 2, 2]]}
    assert request.inputs[0].data == before


SOURCE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def forward(self, x, factor=None):
        return {"y": x * self.weight if factor is None else x * self.weight * factor}
"""


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "net.py").write_text(SOURCE)
    torch.save(Net().state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


@pytest.mark.parametrize("module", ["net.py:Net", "net.py"])
def test_weights_are_loaded_into_the_module_that_is_named(weights, load, reply, ask, module):
    model = load(weights, parameters={"module": module})
    assert model.metadata.platform == "pytorch_eager"
    assert ask.read(one(model, reply, ask.body([1, 1, 1]))) == {"y": [1, 2, 3]}
    twice = ask.tensors(INPUT0=rows(1)[0], INPUT1=np.float32([[2]]))
    assert ask.read(one(model, reply, twice)) == {"y": [[2, 4, 6]]}


def test_safetensors_are_weights(weights, load, reply, ask):
    from safetensors.torch import save_file

    file = weights.with_suffix(".safetensors")
    save_file(Net().state_dict(), file)
    model = load(file, parameters={"module": "net.py"})
    assert ask.read(one(model, reply, ask.body([1, 1, 1]))) == {"y": [1, 2, 3]}


def test_a_whole_model_that_was_pickled_is_called_so(weights, load):
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 1)), weights)
    with pytest.raises(
        ModelLoadFailed, match=r"weights\.pt is a whole model that torch\.save pickled"
    ) as caught:
        load(weights)
    text = caught.value.message
    assert 'torch.export.save(torch.export.export(model, inputs), "weights.pt2")' in text
    assert 'in config.toml platform = "pytorch_eager" and [parameters] module = "model.py:Net"' in text


@pytest.mark.parametrize(
    ("module", "match"),
    [
        ("", r'weights\.pt holds weights without the class of the model\. .* module = "model\.py:Net"'),
        ("gone.py:Net", r"no file 'gone\.py' beside"),
        ("../net.py:Net", r"no file '\.\./net\.py' beside"),
        ("net.py:Other", "module class 'Other'; it has Net"),
        ("bad.py", r"bad\.py, line 1: ZeroDivisionError"),
        ("more.py", "cannot be loaded into 'More': .*(missing|Missing)"),
    ],
)
def test_a_module_that_does_not_fit_is_named(weights, load, module, match):
    weights.with_name("bad.py").write_text("1 / 0")
    weights.with_name("more.py").write_text(
        "import torch\n\n\nclass More(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.inner = torch.nn.Linear(3, 3)\n"
    )
    with pytest.raises(ModelLoadFailed, match=match):
        load(weights, parameters={"module": module} if module else {})


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_a_pickle_is_never_run(weights, load, capsys):
    torch.save({"weight": Evil()}, weights)
    with pytest.raises(ModelLoadFailed, match="holds more than tensors"):
        load(weights, parameters={"module": "net.py"})
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["broken.pt2", "broken.pt"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x00" * 100])
def test_a_broken_file_is_named(tmp_path, load, name, content):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "net.py").write_text(SOURCE)
    with pytest.raises(ModelLoadFailed, match=name.replace(".", r"\.") + " cannot be loaded"):
        load(tmp_path / name, parameters={"module": "net.py"})


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_program_is_named(net, load, keep):
    content = net.read_bytes()
    net.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ModelLoadFailed, match=r"model\.pt2 cannot be loaded"):
        load(net)


def test_a_program_is_known_by_what_it_holds_not_by_its_name(net, load):
    assert load(net.rename(net.with_name("program.pt"))).metadata.platform == "pytorch_exported"


def test_without_the_library_the_reason_says_what_to_install(net, load, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelLoadFailed, match=r'pip install "mooring\[torch\]"'):
        load(net)


def test_a_worker_uses_the_threads_it_is_given(net, load):
    load(net, LoadContext(threads=3))
    assert torch.get_num_threads() == 3


def test_the_library_is_there_before_workers_are_forked(tmp_path):
    spec = model_spec(name="m", version="1", backend="pytorch", location=str(tmp_path))
    assert preload(spec)[0] == "torch"
    program = model_spec(name="m", version="1", backend="pytorch", location=str(tmp_path), entry="model.pt2")
    for module in set(preload(program)) - set(preload(spec)):
        assert importlib.util.find_spec(module) is not None  # torch moves its private modules now and then
    assert len(preload(program)) > len(preload(spec))
    assert isinstance(create_backend("pytorch"), PyTorchBackend)


def test_results_have_the_names_of_their_keys_or_numbers():
    assert flatten_outputs({"a": 1, "b": [2, None, {"a": 3}]}) == {"a": 1, "OUTPUT1": 2, "OUTPUT2": 3}
    assert flatten_outputs((1, 2)) == {"OUTPUT0": 1, "OUTPUT1": 2}
    assert flatten_outputs([["x", "y"]]) == {"OUTPUT0": ["x", "y"]}
    assert flatten_outputs(torch.return_types.max((1, 2))) == {"OUTPUT0": 1, "OUTPUT1": 2}


def test_numbers_beyond_the_arguments_are_no_numbers():
    assert match_names(["INPUT__7", "INPUT__8"], ["a", "b"]) == {"INPUT__7": "a", "INPUT__8": "b"}
    assert match_names([], ["a"]) == {}


class Picture(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.convolution(x)).relu().mean((-2, -1))


def script_spec(folder, *, optimize):
    return model_spec(
        name="m",
        version="1",
        backend="pytorch",
        location=str(folder),
        entry="model.pt",
        max_batch_size=8,
        optimize=optimize,
    )


def save_script(module, given, file, *, frozen):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(module, given)
        (torch.jit.freeze(script) if frozen else script).save(str(file))


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (5, 3, 16, 16), (2, 3, 9, 20), (0, 3, 16, 16)])
@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("saved", ["as traced", "frozen"])
def test_an_optimized_script_answers_as_the_model_does(tmp_path, shape, optimize, saved):
    torch.manual_seed(0)
    module = Picture().eval()
    save_script(module, torch.rand(2, 3, 16, 16), tmp_path / "model.pt", frozen=saved == "frozen")
    spec = script_spec(tmp_path, optimize=optimize)
    backend = PyTorchBackend()
    backend.load(spec, LoadContext())
    x = np.random.default_rng(1).random(shape, np.float32)
    (found,) = backend.predict({"INPUT0": x}, {}).values()
    with torch.inference_mode():
        assert np.allclose(found, module(torch.from_numpy(x)).numpy(), atol=1e-5)
    with pytest.raises(ModelFailed, match="channels"):
        backend.predict({"INPUT0": np.ones((1, 2, 16, 16), np.float32)}, {})


def test_a_script_that_was_frozen_before_it_was_saved_is_in_memory_once(tmp_path):
    wide = nn.Sequential(nn.Conv2d(1024, 1024, 3), nn.ReLU()).eval()
    save_script(wide, torch.rand(2, 1024, 4, 4), tmp_path / "model.pt", frozen=True)
    size = (tmp_path / "model.pt").stat().st_size
    del wide
    spec = model_spec(name="m", version="1", backend="pytorch", location=str(tmp_path), entry="model.pt")
    before = psutil.Process().memory_full_info().uss
    backend = PyTorchBackend()
    backend.load(spec, LoadContext())
    assert backend._program.optimized
    assert psutil.Process().memory_full_info().uss - before < 1.5 * size


class Encoder(nn.Module):
    """Tokens through two layers with weights that are large enough to be optimize_for_onednn."""

    def __init__(self, *, first=False, kind="gelu"):
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 4, 512, 0.0, kind, batch_first=True, norm_first=first)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classes = nn.Linear(256, 3)

    def forward(self, x):
        return self.classes(self.layers(x)[:, 0])


class Attending(nn.Module):
    """Attention in its own steps; the layers without a bias, and one whose weight is the caller's."""

    def __init__(self):
        super().__init__()
        self.both = nn.Linear(256, 512, bias=False)
        self.last = nn.Linear(256, 256)

    def forward(self, x, w):
        key, value = self.both(x).chunk(2, -1)
        mixed = nn.functional.scaled_dot_product_attention(x, key, value)
        return nn.functional.linear(self.last(mixed), w)


def encoded(tmp_path, module, *examples, optimize=True):
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.jit.trace(module.eval(), examples, check_trace=False).save(str(tmp_path / "model.pt"))
    backend = PyTorchBackend()
    spec = script_spec(tmp_path, optimize=optimize)
    backend.load(spec, LoadContext())
    return backend


def operators(backend):
    """How many layers oneDNN calculates."""
    optimized = backend._program.call.__closure__[0].cell_contents
    return str(getattr(optimized, "_module", optimized).graph).count("mkldnn::_linear_pointwise")


@pytest.fixture
def elsewhere(monkeypatch):
    """A processor for which MKL has none of its best ways."""
    monkeypatch.setattr(onednn_layout, "_mkl_is_slow", lambda: True)


@pytest.mark.parametrize("shape", [(1, 16), (5, 16), (2, 1), (3, 70), (0, 16), (2, 0)])
@pytest.mark.parametrize(
    ("first", "kind"), [(False, "gelu"), (True, "gelu"), (False, "relu"), (True, "relu")]
)
def test_an_encoder_in_onednns_layouts_answers_as_the_model_does(tmp_path, elsewhere, shape, first, kind):
    torch.manual_seed(0)
    module = Encoder(first=first, kind=kind).eval()
    for weight in module.parameters():  # norms begin as ones and zeros, and layers all alike
        nn.init.normal_(weight, 0.1, 0.1)
    backend = encoded(tmp_path, module, torch.rand(2, 16, 256))
    assert operators(backend) == 8
    x = np.random.default_rng(1).random((*shape, 256), np.float32)
    with torch.inference_mode():
        if not shape[1]:
            with pytest.raises(ModelFailed):
                backend.predict({"INPUT0": x}, {})
            return
        wanted = module(torch.from_numpy(x)).numpy()
    (found,) = backend.predict({"INPUT0": x}, {}).values()
    assert found.shape == wanted.shape
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_what_an_encoder_refuses_is_said_by_the_model_as_it_is(tmp_path, elsewhere):
    backend = encoded(tmp_path, Encoder(), torch.rand(2, 16, 256))
    plain = encoded(tmp_path, Encoder(), torch.rand(2, 16, 256), optimize=False)
    for shape in ((2, 16, 255), (16, 256), (2, 256)):
        said = []
        for model in (backend, plain):
            try:
                said.append(model.predict({"INPUT0": np.ones(shape, np.float32)}, {})["OUTPUT0"].shape)
            except ModelFailed as error:
                said.append(error.message)
        assert said[0] == said[1]


def test_attention_in_steps_keeps_what_is_no_constant(tmp_path, elsewhere):
    torch.manual_seed(0)
    module = Attending().eval()
    x, w = torch.rand(2, 16, 256), torch.rand(4, 256)
    backend = encoded(tmp_path, module, x, w)
    assert operators(backend) == 2
    for rows in (1, 3):
        x = torch.rand(rows, 7, 256)
        (found,) = backend.predict({"INPUT0": x.numpy(), "INPUT1": w.numpy()}, {}).values()
        with torch.inference_mode():
            assert np.allclose(found, module(x, w).numpy(), rtol=1e-4, atol=1e-4)


class Masked(nn.Module):
    """Layers that look at some of their tokens only."""

    def __init__(self, *, nested):
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 4, 512, 0.0, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
        self.last = nn.Linear(256, 256)

    def forward(self, x, padding):
        return self.last(self.layers(x, src_key_padding_mask=padding > 0)[:, 0])


@pytest.mark.parametrize(("nested", "count"), [(False, 1), (True, 0)])
def test_layers_with_a_mask_stay_as_they_are(tmp_path, elsewhere, nested, count):
    torch.manual_seed(0)
    module = Masked(nested=nested).eval()
    x, padding = torch.rand(3, 6, 256), torch.tensor([[0, 0, 0, 0, 1, 1], [0] * 6, [0, 1, 1, 1, 1, 1]])
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        wanted = module(x, padding).numpy()
    backend = encoded(tmp_path, module, x, padding)
    assert operators(backend) == count
    (found,) = backend.predict({"INPUT0": x.numpy(), "INPUT1": padding.numpy()}, {}).values()
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_linear_layers_stay_as_they_are_where_nothing_is_gained(tmp_path, monkeypatch):
    monkeypatch.setattr(onednn_layout, "_mkl_is_slow", lambda: False)
    assert operators(encoded(tmp_path, Encoder(), torch.rand(2, 16, 256))) == 0
    monkeypatch.setattr(onednn_layout, "_mkl_is_slow", lambda: True)
    assert operators(encoded(tmp_path, nn.Linear(512, 512), torch.rand(2, 512))) == 0
    assert operators(encoded(tmp_path, Encoder(), torch.rand(2, 16, 256), optimize=False)) == 0


def test_a_torch_that_cannot_rearrange_runs_the_model_as_it_is(tmp_path, elsewhere, monkeypatch):
    def refuse(graph):
        raise AttributeError("no such operator")

    monkeypatch.setattr(onednn_layout, "_pack_linears", refuse)
    torch.manual_seed(0)
    module = Encoder().eval()
    backend = encoded(tmp_path, module, torch.rand(2, 16, 256))
    assert operators(backend) == 0
    x = torch.rand(3, 5, 256)
    (found,) = backend.predict({"INPUT0": x.numpy()}, {}).values()
    with torch.inference_mode():
        assert np.allclose(found, module(x).numpy(), rtol=1e-4, atol=1e-4)


def test_weights_may_lie_channels_last_and_answers_stay(tmp_path):
    torch.manual_seed(0)
    module = Picture().eval()
    program = torch.export.export(module, (torch.rand(2, 3, 16, 16),), dynamic_shapes=({0: BATCH},))
    torch.export.save(program, tmp_path / "model.pt2")
    spec = model_spec(
        name="m",
        version="1",
        backend="pytorch",
        location=str(tmp_path),
        entry="model.pt2",
        channels_last=True,
    )
    backend = PyTorchBackend()
    backend.load(spec, LoadContext())
    x = np.random.default_rng(1).random((3, 3, 16, 16), np.float32)
    (found,) = backend.predict({"x": x}, {}).values()
    with torch.inference_mode():
        assert np.allclose(found, module(torch.from_numpy(x)).numpy(), atol=1e-5)
