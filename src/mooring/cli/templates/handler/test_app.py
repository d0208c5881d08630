"""Calls the handler as the server does. Run it with pytest, after make_weights.py."""

from types import SimpleNamespace

from handler import LanguageHandler


def test_languages_are_told_apart():
    handler = LanguageHandler()
    handler.initialize(
        SimpleNamespace(
            system_properties={"model_dir": ".", "gpu_id": None},
            manifest={"model": {"modelFile": "model.py", "serializedFile": "weights.pt"}},
        )
    )
    batch = [{"body": "Das Wetter ist schön."}, {"body": "天気はいいです。"}]
    answers = handler.postprocess(handler.inference(handler.preprocess(batch)))
    assert [answer["language"] for answer in answers] == ["German", "Japanese"]
