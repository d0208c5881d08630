"""Explanations of tensor models: Captum's own numbers, whoever asks, in whatever company."""

import json
import warnings

import numpy as np
import pytest
import torch
from captum import attr
from model_kit import model_spec
from torch import nn

from mooring.backends.backend import create_backend
from mooring.core.errors import InvalidInput, ModelLoadFailed, Unsupported
from mooring.core.options import BatchMode
from mooring.core.requests import Form, InferenceRequest, Operation
from mooring.core.service import LoadContext
from mooring.core.tensors import Tensor, TensorSpec

BATCH = torch.export.Dim("batch")
LABELS = {"0": "cat", "1": ["n02", "dog"], "2": "eel"}
X = np.array([[1.0, -2.0, 0.5, 3.0], [0.25, 1.5, -1.0, 2.0], [-3.0, 0.5, 0.5, 0.25]], np.float32)
NET = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first = torch.nn.Linear(4, 8)
        self.relu = torch.nn.ReLU()
        self.second = torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.second(self.relu(self.first(x)))
"""
TEXT = """
import torch


class Text(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.embedding = torch.nn.Embedding(20, 6)
        self.out = torch.nn.Linear(6, 2)

    def forward(self, tokens, weight):
        return self.out((self.embedding(tokens) * weight[:, :, None]).tanh().mean(1))
"""


def given():
    """The rows as Captum likes them."""
    return torch.tensor(X, requires_grad=True)


def module_of(source, name):
    space = {}
    exec(source, space)
    return space[name]().eval()


@pytest.fixture
def net():
    return module_of(NET, "Net")


@pytest.fixture
def load(tmp_path):
    threads = torch.get_num_threads()
    loaded = []

    def load(entry, backend="pytorch", **more):
        more = {"max_batch_size": 8, "size_by_default": True, "labels": LABELS, **more}
        spec = model_spec(name="m", version="1", backend=backend, location=str(tmp_path), entry=entry, **more)
        made = create_backend(backend)
        made.metadata = made.load(spec, LoadContext())
        loaded.append(made)
        return made

    yield load
    for made in loaded:
        made.close()
    torch.set_num_threads(threads)


@pytest.fixture
def eager(net, load, tmp_path):
    def eager(**explain):
        (tmp_path / "net.py").write_text(NET)
        torch.save(net.state_dict(), tmp_path / "model.pt")
        return load(
            "model.pt", parameters={"module": "net.py:Net"}, inputs=[TensorSpec("x", "FP32", [-1, 4])],
            outputs=[TensorSpec("y", "FP32", [-1, 3])], explain=explain,
        )  # fmt: skip

    return eager


@pytest.fixture
def exported(net, load, tmp_path):
    def exported(**explain):
        program = torch.export.export(net, (torch.ones(2, 4),), dynamic_shapes=({0: BATCH},))
        torch.export.save(program, tmp_path / "model.pt2")
        return load("model.pt2", explain=explain)

    return exported


@pytest.fixture
def scripted(net, load, tmp_path):
    def scripted(**explain):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.trace(net, torch.ones(2, 4)).save(str(tmp_path / "model.pt"))
        return load("model.pt", explain=explain, inputs=[TensorSpec("x", "FP32", [-1, 4])],
                    outputs=[TensorSpec("y", "FP32", [-1, 3])])  # fmt: skip

    return scripted


@pytest.fixture
def onnx(net, load, tmp_path):
    def onnx(**explain):
        from onnx import TensorProto, helper, numpy_helper, save

        weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
        graph = helper.make_graph(
            [helper.make_node("Gemm", ["x", "first.weight", "first.bias"], ["h"], transB=1),
             helper.make_node("Relu", ["h"], ["r"]),
             helper.make_node("Gemm", ["r", "second.weight", "second.bias"], ["y"], transB=1)],
            "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        save(made, tmp_path / "model.onnx")
        return load("model.onnx", "onnx", explain=explain)

    return onnx


@pytest.fixture
def explained(reply, ask):
    """The answer to a body, {"data": rows, "target": target} as a client would send it."""

    def explained(backend, data=X, **more):
        data = data.tolist() if isinstance(data, np.ndarray) else data
        body = ask.body({"data": data, **more}, operation=Operation.EXPLAIN)
        (outcome,) = backend.infer([body], reply)
        answer = ask.read(outcome)
        return np.array(next(iter(answer.values())), np.float32) if len(answer) == 1 else answer

    return explained


def form(*fields):
    tensors = [Tensor(name, "BYTES", [1], [data], {"content_type": kind}) for name, data, kind in fields]
    return InferenceRequest("m", "1", "id", tensors, form=Form.BODY, operation=Operation.EXPLAIN)


KINDS = ["eager", "exported", "scripted"]
GRADIENTS = {
    "IntegratedGradients": ({"n_steps": 20}, {}),
    "Saliency": ({"abs": False}, {}),
    "InputXGradient": ({}, {}),
}
PERTURBING = {
    "FeatureAblation": ({}, {}),
    "Occlusion": ({"sliding_window_shapes": [2], "strides": [1]},
                  {"sliding_window_shapes": (2,), "strides": (1,)}),
    "ShapleyValueSampling": ({"n_samples": 7, "seed": 4}, {"n_samples": 7}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [*GRADIENTS, *PERTURBING])
def test_the_numbers_are_captums(kind, method, net, explained, request):
    own, captums = {**GRADIENTS, **PERTURBING}[method]
    backend = request.getfixturevalue(kind)(method=method, **own)
    found = explained(backend, target=[1, 2, 0])
    torch.manual_seed(own.get("seed", 0))
    arguments = {key: value for key, value in own.items() if key != "seed"} | captums
    whole = getattr(attr, method)(net).attribute(given(), target=torch.tensor([1, 2, 0]), **arguments)
    np.testing.assert_allclose(found, whole.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("method", PERTURBING)
def test_a_model_without_gradients_is_explained_by_trying(method, net, onnx, load, explained, tmp_path):
    own, captums = PERTURBING[method]
    (tmp_path / "model.py").write_text(
        NET + "\nnet = Net().eval()\n\n\ndef infer(x: 'ndarray'):\n    with torch.no_grad():\n"
        '        return {"y": net(torch.from_numpy(x).float()).numpy()}\n'
    )
    torch.manual_seed(own.get("seed", 0))
    arguments = {key: value for key, value in own.items() if key != "seed"} | captums
    whole = getattr(attr, method)(net).attribute(given(), target=2, **arguments)
    function = load("model.py", "function", explain={"method": method, **own}, size_by_default=False)
    for backend in (onnx(method=method, **own), function):
        np.testing.assert_allclose(explained(backend, target="eel"), whole.detach(), atol=1e-5)


def test_deep_lift_and_gradient_shap_are_captums(eager, net, explained, tmp_path):
    background = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    np.save(tmp_path / "background.npy", background)
    backend = eager(method="DeepLift", baselines="background.npy")
    mean = torch.tensor(background.mean(axis=0, keepdims=True))
    with pytest.warns(UserWarning, match="hooks"):
        whole = attr.DeepLift(net).attribute(given(), mean, target=1).detach().numpy()
    np.testing.assert_allclose(explained(backend, target=1), whole, atol=1e-5)
    backend = eager(method="GradientShap", baselines="background.npy", n_samples=9, stdevs=0.1, seed=2)
    found = explained(backend, target=1)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002 - as Captum draws
    alone = attr.GradientShap(net).attribute(
        given()[:1].detach().requires_grad_(), torch.tensor(background), n_samples=9, stdevs=0.1, target=1
    )
    np.testing.assert_allclose(found[:1], alone.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(found[1:2], explained(backend, X[1:2], target=1), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients_are_complete(kind, net, explained, request):
    backend = request.getfixturevalue(kind)(n_steps=200, baselines=0.5)
    with torch.no_grad():
        gained = (net(torch.tensor(X)) - net(torch.full((1, 4), 0.5)))[:, 1]
    np.testing.assert_allclose(explained(backend, target=1).sum(axis=1), gained, atol=5e-3)


@pytest.mark.parametrize("method", [*GRADIENTS, *PERTURBING, "GradientShap", "DeepLift"])
def test_in_a_batch_each_request_has_the_explanation_it_has_alone(method, eager, reply, ask):
    own = {**GRADIENTS, **PERTURBING}.get(method, ({}, {}))[0]
    backend = eager(method=method, **own)
    asked = [
        {"data": X[:2].tolist(), "target": "dog"},
        {"data": X[2:].tolist()},
        {"x": X.tolist(), "target": 0},
    ]

    def bodies():
        return [ask.body(one, operation=Operation.EXPLAIN) for one in asked]

    together = [ask.read(one)["x"] for one in backend.infer(bodies(), reply)]
    for one, found in zip(bodies(), together, strict=True):
        (alone,) = backend.infer([one], reply)
        np.testing.assert_allclose(found, ask.read(alone)["x"], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_and_explanations_do_not_disturb_each_other(kind, net, explained, reply, ask, request):
    backend = request.getfixturevalue(kind)()
    with torch.no_grad():
        expected = net(torch.tensor(X)).numpy()
    first = explained(backend, target=1)
    for _ in range(4):
        (outcome,) = backend.infer([ask.tensors(x=X)], reply)
        np.testing.assert_allclose(next(iter(ask.read(outcome).values())), expected, atol=1e-5)
        np.testing.assert_array_equal(explained(backend, target=1), first)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_no_gradient_is_left_in_the_weights(eager, explained):
    backend = eager(method="DeepLift")
    explained(backend, target=1)
    module, _ = backend._program.unfold()
    assert [each.grad for each in module.parameters()] == [None] * 4
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())


def test_the_model_is_never_called_with_more_rows_than_it_takes(load, explained, tmp_path):
    source = 'seen = []\n\n\ndef infer(x: "ndarray"):\n    seen.append(len(x))\n    return {"y": x @ x.T[:, :0].sum() if 0 else x}\n'
    (tmp_path / "model.py").write_text(source)
    backend = load("model.py", "function", max_batch_size=4, explain={"method": "FeatureAblation"})
    rows = np.arange(40.0).reshape(10, 4)
    found = explained(backend, rows, target=[index % 4 for index in range(10)])
    expected = np.zeros((10, 4))
    expected[range(10), [index % 4 for index in range(10)]] = rows[
        range(10), [index % 4 for index in range(10)]
    ]
    np.testing.assert_allclose(found, expected)
    assert max(backend._code.module.seen) == 4


def test_a_program_of_a_fixed_batch_is_explained_by_batches_of_it(net, load, explained, tmp_path):
    program = torch.export.export(net, (torch.ones(3, 4),))
    torch.export.save(program, tmp_path / "model.pt2")
    whole = attr.IntegratedGradients(net).attribute(given(), target=1).detach().numpy()
    np.testing.assert_allclose(explained(load("model.pt2"), target=1), whole, atol=1e-5)


def test_a_single_sample_loses_the_batch_dimension_again(exported, explained, load):
    found = explained(exported(), X[0], target=1)
    assert found.shape == (4,)
    stacked = load("model.pt2", mode=BatchMode.STACK, size_by_default=False)
    np.testing.assert_allclose(explained(stacked, X[0], target=1), found, atol=1e-6)


@pytest.mark.parametrize("kind", ["eager", "exported"])
def test_a_text_has_a_number_for_every_token(kind, load, reply, ask, tmp_path):
    model = module_of(TEXT, "Text")
    tokens, weight = torch.tensor([[4, 9, 1], [2, 2, 7]]), torch.rand(2, 3)
    explain = {
        "method": "LayerIntegratedGradients",
        "layer": "embedding",
        "inputs": ["tokens"],
        "n_steps": 30,
    }
    if kind == "eager":
        (tmp_path / "text.py").write_text(TEXT)
        torch.save(model.state_dict(), tmp_path / "model.pt")
        inputs = [TensorSpec("tokens", "INT64", [-1, -1]), TensorSpec("weight", "FP32", [-1, -1])]
        outputs = [TensorSpec("y", "FP32", [-1, 2])]
        backend = load(
            "model.pt", parameters={"module": "text.py"}, inputs=inputs, outputs=outputs, explain=explain
        )
    else:
        words = torch.export.Dim("words")
        shapes = ({0: BATCH, 1: words}, {0: BATCH, 1: words})
        torch.export.save(
            torch.export.export(model, (tokens, weight), dynamic_shapes=shapes), tmp_path / "model.pt2"
        )
        backend = load("model.pt2", explain=explain)
    body = {"tokens": tokens.tolist(), "weight": weight.tolist(), "target": [1, 0]}
    (outcome,) = backend.infer([ask.body(body, operation=Operation.EXPLAIN)], reply)
    found = ask.read(outcome)
    assert list(found) == ["tokens"]
    whole = attr.LayerIntegratedGradients(model, model.embedding).attribute(
        tokens,
        torch.zeros_like(tokens),
        target=torch.tensor([1, 0]),
        additional_forward_args=(weight,),
        n_steps=30,
    )
    np.testing.assert_allclose(found["tokens"], whole.sum(-1).detach().numpy(), atol=1e-5)


def test_every_form_of_a_target_reaches_the_model(exported, explained, reply, ask):
    backend = exported()
    expected = explained(backend, X[:1], target=1)
    data = json.dumps(X[:1].tolist()).encode()
    requests = [
        ask.body({"data": X[:1].tolist(), "target": 1}, operation=Operation.EXPLAIN),
        ask.body({"x": X[:1].tolist(), "target": "dog"}, operation=Operation.EXPLAIN),
        ask.body({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X[0].tolist()}],
                  "target": 1}, operation=Operation.EXPLAIN),
        form(("data", data, "application/json"), ("target", b"1", "")),
        form(("data", data, "application/json"), ("target", b'"dog"', "application/json")),
        form(("data", data, ""), ("target", b"n02", "")),
        form(("data", data, ""), ("target", b"[1]", "")),
    ]  # fmt: skip
    for one in requests:
        (outcome,) = backend.infer([one], reply)
        np.testing.assert_allclose(ask.read(outcome)["x"], expected, atol=1e-6)
    rows = [{"data": X[0].tolist(), "target": 1}, {"x": X[0].tolist(), "target": "dog"}, X[0].tolist()]
    for undecoded in (False, True):
        asked = ask.instances(*rows, undecoded=undecoded, operation=Operation.EXPLAIN)
        (outcome,) = backend.infer([asked], reply)
        found = ask.read(outcome)
        np.testing.assert_allclose(found[:2], np.concatenate([expected, expected]), atol=1e-6)
        predicted = explained(backend, X[:1])[0]
        np.testing.assert_allclose(found[2], predicted, atol=1e-6)


def test_without_a_target_the_predicted_class_is_explained_or_the_configured_one(exported, net, explained):
    with torch.no_grad():
        predicted = net(torch.tensor(X)).argmax(dim=1).tolist()
    np.testing.assert_array_equal(explained(exported()), explained(exported(), target=predicted))
    np.testing.assert_array_equal(explained(exported(target="eel")), explained(exported(), target=2))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (3, r"target 3: output .* takes 0 to 2, or one of 'cat', 'dog', 'eel'"),
        (-1, "takes 0 to 2"),
        ("cow", "target 'cow'"),
        ("9" * 400, "target '999"),
        (1.5, "target 1.5"),
        (True, "target True"),
        ({"a": 1}, "target {'a': 1}"),
        ([0, 1], "a list of 2 for 3 rows"),
        ([], "a list of 0 for 3 rows"),
        ([0, 1, [2, 3]], "target"),
    ],
)
def test_a_target_that_is_not_there_is_the_callers_fault(exported, explained, target, reason):
    with pytest.raises(InvalidInput, match=reason):
        explained(exported(), target=target)


@pytest.mark.parametrize(
    ("explain", "reason"),
    [
        ({"method": "Magic"}, "explain.method: there is no 'Magic'; known are IntegratedGradients, Saliency"),
        ({"steps": 5}, "explain.steps: IntegratedGradients has no such setting; known are .*n_steps"),
        ({"n_steps": 0}, "explain.n_steps: expected a whole number from 1"),
        ({"method": "Saliency", "baselines": 0}, "explain.baselines: Saliency has no such"),
        ({"method": "Occlusion"}, "explain.sliding_window_shapes: Occlusion needs it"),
        ({"method": "LayerIntegratedGradients"}, "explain.layer: LayerIntegratedGradients needs it"),
        ({"method": "LayerIntegratedGradients", "layer": "no"}, "explain.layer: there is no 'no'; the model has first"),
        ({"method": "DeepLift"}, "DeepLift"),
        ({"baselines": "none.npy"}, "explain.baselines: there is no file 'none.npy'"),
        ({"baselines": "../../etc/passwd"}, "explain.baselines: there is no file"),
        ({"baselines": {"z": 0}}, "explain.baselines: there is no input 'z'; the model takes 'x'"),
        ({"inputs": ["z"]}, "explain.inputs: there is no input 'z'"),
        ({"output": "z"}, "explain.output: there is no 'z'"),
        ({"target": 3}, "explain.target: target 3: .* takes 0 to 2"),
        ({"target": [1.5]}, "explain.target: expected"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_work_fails_the_load(exported, explain, reason):
    with pytest.raises(ModelLoadFailed, match=reason):
        exported(**explain)


def test_what_a_kind_of_model_cannot_do_is_said_when_it_is_loaded(onnx, scripted):
    with pytest.raises(ModelLoadFailed, match=r"needs gradients.*FeatureAblation"):
        onnx(method="IntegratedGradients")
    with pytest.raises(ModelLoadFailed, match=r"TorchScript .* torch.export"):
        scripted(method="LayerIntegratedGradients", layer="first")


def test_a_model_that_nobody_configured_says_what_to_configure(onnx, explained):
    with pytest.raises(Unsupported, match=r"name a method under \[explain\]"):
        explained(onnx(), target=1)


def test_whole_numbers_have_no_gradient(load, explained, tmp_path):
    tokens = torch.tensor([[4, 9, 1], [2, 2, 7]])
    model = nn.Sequential(nn.Embedding(20, 6), nn.Flatten(), nn.Linear(18, 2)).eval()
    torch.export.save(
        torch.export.export(model, (tokens,), dynamic_shapes=({0: BATCH},)), tmp_path / "model.pt2"
    )
    with pytest.raises(
        Unsupported, match="FeatureAblation, ShapleyValueSampling, or LayerIntegratedGradients"
    ):
        explained(load("model.pt2"), tokens.tolist(), target=1)
    backend = load("model.pt2", explain={"method": "FeatureAblation"})
    whole = attr.FeatureAblation(model).attribute(tokens, target=1).detach()
    np.testing.assert_allclose(explained(backend, tokens.tolist(), target=1), whole, atol=1e-5)


def test_an_output_of_more_dimensions_takes_a_list_of_indices(load, explained, tmp_path):
    model = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3))).eval()
    program = torch.export.export(model, (torch.ones(2, 4),), dynamic_shapes=({0: BATCH},))
    torch.export.save(program, tmp_path / "model.pt2")
    backend = load("model.pt2")
    wanted = attr.IntegratedGradients(model)
    each = wanted.attribute(given(), target=[(1, 2), (0, 0), (1, 1)]).detach().numpy()
    np.testing.assert_allclose(explained(backend, target=[[1, 2], [0, 0], [1, 1]]), each, atol=1e-5)
    same = wanted.attribute(given(), target=(1, 2)).detach().numpy()
    np.testing.assert_allclose(explained(backend, target=[1, 2]), same, atol=1e-5)
    for target, reason in (
        ([2, 0], "takes 0 to 1"),
        (1, "send a list of 2 indices"),
        (None, "a target is needed"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            explained(backend, target=target)


def test_a_model_that_keeps_tensors_of_its_predictions_is_explained_where_that_is_configured(
    load, reply, ask, tmp_path
):
    (tmp_path / "net.py").write_text(
        "import torch\n\n\nclass Keeps(torch.nn.Module):\n    kept = None\n\n"
        "    def forward(self, x):\n        if self.kept is None:\n            self.kept = torch.ones(4) * 2\n"
        "        return x * self.kept\n"
    )
    torch.save({}, tmp_path / "model.pt")
    for explain in ({}, {"method": "Saliency"}):
        backend = load("model.pt", parameters={"module": "net.py"}, inputs=[TensorSpec("x", "FP32", [-1, 4])],
                       outputs=[TensorSpec("y", "FP32", [-1, 4])], explain=explain)  # fmt: skip
        backend.infer([ask.body({"x": X.tolist()})], reply)
        (outcome,) = backend.infer(
            [ask.body({"x": X.tolist(), "target": 1}, operation=Operation.EXPLAIN)], reply
        )
        if explain:
            np.testing.assert_array_equal(ask.read(outcome)["x"], [[0, 2, 0, 0]] * 3)
        else:
            with pytest.raises(Unsupported, match=r"configure \[explain\]"):
                ask.read(outcome)


def test_a_models_own_explain_gets_a_target_for_each_row(function, reply, ask):
    backend = function(
        "class Model:\n    def infer(self, x: 'ndarray'):\n        return {'y': x}\n\n"
        "    def explain(self, x, target):\n        return {'x': x * [t or 0 for t in target]}\n",
        max_batch_size=4,
    )
    asked = ask.instances({"x": 2, "target": 5}, {"x": 3}, operation=Operation.EXPLAIN)
    (outcome,) = backend.infer([asked], reply)
    assert ask.read(outcome) == [10, 0]
