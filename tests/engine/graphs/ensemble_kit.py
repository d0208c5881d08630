"""An ensemble whose steps' models answer when a test tells them to."""

import msgspec
from fakes import FakeCodecs
from model_kit import model_spec

from mooring.core.buffers import LARGE, Buffer, Slot
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.tensors import Tensor, TensorSpec
from mooring.engine.graphs.ensemble_plan import EnsemblePlan
from mooring.engine.graphs.ensemble_run import EnsembleContext, EnsembleRun
from mooring.repository.ensemble_rules import StepModel
from mooring.repository.spec import Ensemble, EnsembleStep


def step(model, inputs, outputs, version=""):
    """A step; ``inputs`` as in "x=A y=B"."""
    maps = [dict(each.split("=") for each in text.split()) for text in (inputs, outputs)]
    return EnsembleStep(model, version, *maps)


def specs(names, shape=(-1, 2), **more):
    return [
        TensorSpec(name.rstrip("?"), "FP32", [*shape], name.endswith("?"), **more) for name in names.split()
    ]


def ensemble_spec(*steps, inputs, outputs, batch=8, max_inflight=0, shape=(-1, 2)):
    return model_spec(
        "e",
        "3",
        backend="ensemble",
        inputs=specs(inputs, shape),
        outputs=specs(outputs, shape),
        ensemble=Ensemble(list(steps), max_inflight),
        stages=list(dict.fromkeys(each.model for each in steps)),
        max_batch_size=max(batch, 1),
        batch_dimension=batch > 0,
    )


def fitting_models(spec, **decoupled):
    """The models of an ensemble's steps, which have what it maps, all of one shape."""
    shape, batch = spec.inputs[0].shape, spec.batching.max_batch_size if spec.batching.batch_dimension else 0
    return [
        StepModel(
            each.model, batch, specs(" ".join(each.inputs), shape), specs(" ".join(each.outputs), shape),
            decoupled=decoupled.get(each.model, False),
        )
        for each in spec.ensemble.steps
    ]  # fmt: skip


class Memory:
    """Buffers, and those that nobody has given back."""

    def __init__(self):
        self.out = {}

    def buffer(self, size=LARGE + 8):
        number = len(self.out)
        self.out[number] = 1

        def give_back(_slot):
            assert self.out[number] == 1, "given back twice"
            self.out[number] = 0

        return Buffer(memoryview(bytes(size)), Slot(0, number * size, size), give_back)

    @property
    def held(self):
        return sum(self.out.values())


class Steps:
    """Runs an ensemble; ``asked`` has the requests to models with their callbacks, ``outcomes`` what the caller got."""

    def __init__(self, spec, **decoupled):
        self.plan = EnsemblePlan(spec)
        self.plan.models = fitting_models(spec, **decoupled)
        self.codecs = FakeCodecs(at_hand=True)
        self.asked = []
        self.withdrawn = []
        self.outcomes = []
        self.runs = set()
        self.memory = Memory()

    def submit(self, request, done):
        self.asked.append((request, done))
        steps = self

        class Ticket:
            def cancel(self):
                steps.withdrawn.append(request.model)

        return Ticket()

    @property
    def context(self):
        return EnsembleContext(self.submit, self.codecs.reader(), self.codecs, self.runs)

    def tensor(self, name, rows=1, large=False):
        data = self.memory.buffer() if large else bytes(8 * rows)
        return Tensor(name, "FP32", [rows, LARGE // 8 + 1] if large else [rows, 2], data)

    def run(self, *tensors, **fields):
        request = InferenceRequest("e", "", "7", list(tensors), **fields)
        return EnsembleRun(self.plan, request, self.outcomes.append, self.context)

    def waiting(self):
        """The models that have not answered, as often as each was asked."""
        return [request.model for request, _ in self.asked]

    def answer(self, model, *tensors, final=True, error=None):
        """Let a model answer its first request, with tensors in the order of its outputs."""
        at = self.waiting().index(model)
        request, done = self.asked[at]
        if final:
            del self.asked[at]
            request.release()
        if error is not None:
            done(error)
            return
        named = [
            msgspec.structs.replace(tensor, name=output.name)
            for tensor, output in zip(tensors, request.outputs, strict=False)
        ]
        done(InferenceResponse(named, final=final))

    def given(self, model):
        """The inputs with which a model waits: their names and shapes."""
        request = next(request for request, _ in self.asked if request.model == model)
        return [(each.name, each.shape) for each in request.inputs]
