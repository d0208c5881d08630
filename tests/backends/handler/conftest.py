"""Handlers in folders of their own, loaded into this process without leaving anything behind in it."""

import os
import sys
import textwrap
from pathlib import Path

import pytest
from handler_kit import LoadedModel
from model_kit import model_spec

from mooring.backends.backend import create_backend
from mooring.core.service import LoadContext


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Write files into a model's folder and load the handler there; the process is as before afterwards."""
    modules, path, folder = dict(sys.modules), list(sys.path), Path.cwd()
    environment = dict(os.environ)

    def load_model(files, entry="handler.py", **spec):
        for name, text in files.items() if isinstance(files, dict) else {"handler.py": files}.items():
            if isinstance(text, bytes):
                (tmp_path / name).write_bytes(text)
            else:
                (tmp_path / name).write_text(textwrap.dedent(text))
        backend = create_backend("handler")
        model = model_spec(
            name="m", version="1.0", backend="handler", location=str(tmp_path), entry=entry, **spec
        )
        return LoadedModel(backend, backend.load(model, LoadContext(threads=1)))

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield load_model
    os.chdir(folder)
    sys.path[:] = path
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    own = [
        name
        for name, module in sys.modules.items()
        if name not in modules
        and (name.partition(".")[0] == "ts" or str(getattr(module, "__file__", "")).startswith(str(tmp_path)))
    ]
    for name in own:
        del sys.modules[name]
