"""``torch.compile`` as model-config.yaml asks for it (its key ``pt2``)."""

import enum
from collections.abc import Mapping
from typing import Any


class PT2Backend(enum.StrEnum):
    """The backends of ``torch.compile`` that TorchServe names; torch may know more."""

    EAGER = "eager"
    AOT_EAGER = "aot_eager"
    INDUCTOR = "inductor"
    CUDAGRAPHS = "cudagraphs"
    ONNXRT = "onnxrt"
    TVM = "tvm"
    OPENXLA = "openxla"


def pt2_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``torch.compile``; empty when the model is not to be compiled.

    ``pt2: inductor`` names a backend; ``pt2: {compile: {enable: true, backend: …, mode: …}}`` says more.
    Raises ``ValueError`` for a backend torch does not know.
    """
    value = config.get("pt2")
    if isinstance(value, str):
        settings: dict[str, Any] = {"backend": value}
    elif isinstance(value, dict):
        nested = value.get("compile", {} if "export" in value else value)
        settings = dict(nested) if isinstance(nested, dict) else {"enable": bool(nested)}
        if not settings.pop("enable", bool(settings)):
            return {}
        settings.setdefault("backend", "inductor")
    else:
        return {}
    if not check_valid_pt2_backend(settings["backend"]):
        known = ", ".join(sorted(_known_backends()))
        raise ValueError(
            f"pt2 backend '{settings['backend']}' in model-config.yaml is unknown; known are {known}"
        )
    return settings


def compile_model(model: Any, settings: Mapping[str, Any]) -> Any:
    """Return the model for ``torch.compile``, which compiles it at its first call."""
    import torch

    return torch.compile(model, **settings)


def check_valid_pt2_backend(backend: str) -> bool:
    """Whether ``torch.compile`` knows this backend."""
    return backend in _known_backends()


def _known_backends() -> set[str]:
    import torch

    return {*torch.compiler.list_backends(exclude_tags=()), "eager", "aot_eager", "inductor"}
