"""Tests of models by ``mooring.testing.Client``: in process and in a real server the same is asked and answered."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import mooring
from mooring.core.errors import MooringError
from mooring.testing import Client


def double(x: np.ndarray):
    return {"doubled": x * 2}


class Scaler:
    closed = 0

    def load(self, context):
        self.factor = 3

    def infer(self, x: np.ndarray):
        if x.ndim > 1:
            raise ValueError("too many dimensions")
        return x * self.factor

    def close(self):
        type(self).closed += 1


async def slowly(x: np.ndarray):
    await asyncio.sleep(0)
    return x + 1


def count(n: np.ndarray):
    for number in range(int(n)):
        yield {"n": np.array(number)}


class Explained:
    def infer(self, x: np.ndarray):
        return x

    def explain(self, x: np.ndarray):
        return {"x": x * 0.5}


class Order(msgspec.Struct):
    item: str
    count: int = 1


def order(order: Order) -> Order:
    return Order(order.item.upper(), order.count * 2)


def refuse(x: int) -> int:
    raise mooring.Refused(402, f"{x} must be paid")


def spell(text: str):
    yield from text


def number_letters(text: str):
    for number, letter in enumerate(text):
        yield {letter: number}


def greet(name: str, request: mooring.Request) -> str:
    return f"{name} of {request.headers['x-place']}"


def give(pieces: list[Any]):
    for piece in pieces:
        if piece == "fail":
            raise RuntimeError("no more")
        yield piece


def same(value: Any) -> Any:
    return value


VALUES = {each.__name__: each for each in (order, refuse, spell, number_letters, greet, give, same)} | {
    "a?b c": same
}
TARGET = VALUES | {
    "double": double,
    "scaler": Scaler,
    "slowly": slowly,
    "count": count,
    "explained": Explained,
}


@pytest.fixture(
    scope="module",
    params=[False, pytest.param(True, marks=pytest.mark.processes)],
    ids=["in process", "server"],
)
def client(request):
    with Client(TARGET, process=request.param) as client:
        yield client


def test_predictions_are_python_values(client):
    assert client.predict({"x": [1, 2]}, model="double") == {"doubled": [2, 4]}
    assert client.predict({"x": np.array([1.5])}, model="scaler") == {"output": [4.5]}


def test_asynchronous_models_answer(client):
    assert client.predict({"x": 1}, model="slowly") == {"output": 2}


def test_pieces_come_one_by_one(client):
    assert list(client.stream({"n": 3}, model="count")) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_stream_that_is_left_ends(client):
    pieces = client.stream({"n": 1000}, model="count")
    assert next(pieces) == {"n": 0}
    pieces.close()
    assert client.predict({"x": 1}, model="slowly") == {"output": 2}


def test_tensors_are_asked_as_by_the_client_of_a_server(client):
    assert list(client.infer({"x": [1, 2]}, model="double")["doubled"]) == [2, 4]
    with pytest.raises(mooring.InvalidInput, match="unexpected input 'y'; the model takes 'x'"):
        client.infer({"y": [1]}, model="scaler")


def test_functions_of_values_take_what_their_hints_say(client):
    assert client.predict({"item": "tea", "count": 2}, model="order") == {"item": "TEA", "count": 4}
    result = client.infer({"item": "tea"}, model="order")
    assert (result.model, result["output"]) == ("order", {"item": "TEA", "count": 2})
    with pytest.raises(mooring.InvalidInput, match=r"order\.count must be a whole number, not a string"):
        client.predict({"item": "tea", "count": "two"}, model="order")
    assert client.predict("Ada", model="greet", headers={"x-place": "London"}) == "Ada of London"


def test_functions_refuse_with_their_status(client):
    with pytest.raises(mooring.Refused, match="3 must be paid") as refused:
        client.predict(3, model="refuse")
    assert refused.value.code == 402


def test_pieces_of_text_and_of_json_are_values(client):
    assert list(client.stream("abc", model="spell")) == ["a", "b", "c"]
    assert client.predict("abc", model="spell") == "abc"
    assert list(client.stream("ab", model="number_letters")) == [{"a": 0}, {"b": 1}]
    assert client.predict("ab", model="number_letters") == [{"a": 0}, {"b": 1}]


@pytest.mark.parametrize(
    ("pieces", "told"),
    [([], []), (["a", "", "b"], ["a", "b"]), (["a", {"b": 1}], ["a", '{"b":1}\n']), ([{"a": 1}], [{"a": 1}])],
)
def test_a_stream_of_any_pieces_is_told_alike(client, pieces, told):
    assert list(client.stream({"pieces": pieces}, model="give")) == told


def test_a_stream_that_fails_gives_what_came_before(client):
    pieces = client.stream({"pieces": ["a", "fail"]}, model="give")
    assert next(pieces) == "a"
    with pytest.raises(mooring.ModelFailed):
        next(pieces)


def test_a_stream_of_one_piece_is_an_answer_to_infer_and_more_are_none(client):
    assert client.infer({"pieces": [{"a": 1}]}, model="give")["output"] == {"a": 1}
    with pytest.raises(mooring.Unsupported):
        client.infer({"pieces": ["a", "b"]}, model="give")


def test_a_body_may_hold_what_json_can_say_in_any_way(client):
    assert client.predict({"value": 10**30}, model="same") == {"value": 1e30}
    assert client.predict(Order("tea"), model="same") == {"item": "tea", "count": 1}
    with pytest.raises(mooring.InvalidInput, match="cannot be written as JSON"):
        client.predict(object(), model="same")


def test_names_of_models_may_have_any_letters(client):
    assert client.predict(1, model="a?b c") == 1
    assert client.infer(1, model="a?b c").value == 1


def test_explanations_are_asked(client):
    assert client.explain({"x": [2.0]}, model="explained") == {"x": [1.0]}


def test_errors_are_those_of_the_wire(client):
    with pytest.raises(mooring.InvalidInput, match="unexpected input 'y'; the model takes 'x'"):
        client.predict({"y": 1}, model="double")
    with pytest.raises(mooring.ModelNotFound):
        client.predict({"x": 1}, model="nothing")
    with pytest.raises(TypeError, match="there are several models"):
        client.predict({"x": 1})


def test_the_models_own_exception_is_the_cause():
    class Strict(Scaler):
        closed = 0

    with Client(Strict) as client:
        with pytest.raises(mooring.ModelFailed, match="ValueError: too many dimensions") as caught:
            client.predict({"x": [[1]]})
        assert isinstance(caught.value.__cause__, ValueError)
        lines = caught.value.__cause__.__traceback__
        while lines.tb_next is not None:
            lines = lines.tb_next
        assert lines.tb_frame.f_code.co_name == "infer"
        assert Strict.closed == 0
    assert Strict.closed == 1


def test_what_a_test_sees_is_what_the_model_uses():
    seen = []

    def remember(x):
        seen.append(x)
        return x

    with Client(remember) as client:
        assert client.models == ["remember"]
        assert client.server is None
        client.predict({"x": 5})
    assert len(seen) == 1


def test_files_are_targets(tmp_path):
    (tmp_path / "plus.py").write_text("import beside\n\ndef plus(x):\n    return x + beside.one\n")
    (tmp_path / "beside.py").write_text("one = 1\n")
    with Client(tmp_path / "plus.py") as client:
        assert client.predict({"x": 1}) == 2


def test_the_next_model_may_have_files_of_the_same_names(tmp_path):
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "add.py").write_text("import beside\n\ndef add(x):\n    return x + beside.amount\n")
        (folder / "beside.py").write_text(f"amount = {number}\n")
        path, hooks = list(sys.path), list(sys.path_hooks)
        with Client(f"{folder}/add.py:add") as client:
            assert client.predict({"x": 0}) == number
        assert (sys.path, sys.path_hooks) == (path, hooks)


def test_variables_that_a_model_sets_or_removes_are_as_before_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("REMOVED", "1")
    monkeypatch.delenv("ADDED", raising=False)
    text = "import os\nos.environ['ADDED'] = '1'\ndel os.environ['REMOVED']\ndef double(x: int) -> int: return x * 2\n"
    (tmp_path / "app.py").write_text(text)
    variables = dict(os.environ)
    with Client(tmp_path / "app.py") as client:
        assert client.predict(2) == 4
    assert dict(os.environ) == variables


def test_a_handler_works_in_its_folder_and_the_test_stays_in_its_own():
    folder, variables = Path.cwd(), dict(os.environ)
    digits = Path(__file__).parents[1] / "examples/digits"
    with Client(digits / "digits.mar") as client:
        assert Path.cwd() == folder
        assert (
            client.predict((digits / "samples/3.png").read_bytes(), content_type="image/png")["class"] == "3"
        )
        with pytest.raises(MooringError, match="no image"):
            client.predict(b"junk", content_type="image/png")
        assert Path.cwd() == folder
    assert dict(os.environ) == variables


def test_a_form_has_its_fields(client):
    body = client.predict(b"x=4", model="double", content_type="application/x-www-form-urlencoded")
    assert body == {"doubled": 8}


def test_arguments_are_checked_without_a_server_too():
    with pytest.raises(TypeError, match="did you mean 'job_queue_size'"):
        Client(double, job_queu_size=3)


def test_a_model_that_cannot_be_loaded_is_refused():
    class Broken:
        def load(self, context):
            raise ValueError("no weights here")

        def infer(self, x):
            return x

    with pytest.raises(mooring.ModelLoadFailed, match="ValueError: no weights here") as caught:
        Client(Broken)
    assert isinstance(caught.value.__cause__, ValueError)


async def test_it_works_in_a_running_event_loop():
    with Client({"slowly": slowly, "double": double}) as client:
        assert client.predict({"x": 1}, model="slowly") == {"output": 2}
        assert client.predict({"x": 1}, model="double") == {"doubled": 2}


def test_a_closed_client_says_so():
    with Client(double) as client:
        pass
    with pytest.raises(mooring.ModelNotFound, match="no model 'double'; the client is closed"):
        client.predict({"x": 1}, model="double")


def test_a_model_alone_needs_no_name_and_says_where_it_is():
    with Client(lambda x: x) as client:
        assert client.predict({"x": "text"}) == "text"
        assert repr(client) == "<mooring.testing.Client of lambda in this process>"
