"""What a pod of KServe's gives a server: the folder of models, two ports and variables. Runs in the command's process.

KServe runs TorchServe's own command line there. Where it reads below ``/mnt/models``, the server does alone what TorchServe
does with KServe's wrapper in front of it: it also answers at 8080 (v1, v2) and 8081 (gRPC), whatever the file says.
"""

import os
import time
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import click

from mooring.cli.standard_streams import print_line
from mooring.config.settings import Address, Config

MODELS = "/mnt/models"
"""Where KServe puts what ``storageUri`` names."""

HTTP_PORT, GRPC_PORT = 8080, 8081
"""The ports that KServe's own servers have."""

EVERYWHERE = "0.0.0.0"  # noqa: S104 - others reach a pod by its own address
_FILE_PORT = 8085  # of TorchServe behind the wrapper, where its file names none
_LONGEST_WAIT = 600.0  # seconds
_TELL_EVERY = 15.0
_LOOK_EVERY = 0.1

ENVELOPE = "TS_SERVICE_ENVELOPE"
_UNFILLED = ("{{", "<no value>")
_PROTOCOLS = ("v1", "v2", "grpc-v2")
_OF_WRAPPER = "MODEL_LOAD_"

POD_DEFAULTS: Mapping[str, Any] = {
    "inference_address": Address("127.0.0.1", _FILE_PORT),
    "management_address": Address("127.0.0.1", _FILE_PORT),
    "second_inference_address": Address(EVERYWHERE, HTTP_PORT),
    "second_grpc_address": Address(EVERYWHERE, GRPC_PORT),
    # KServe's clients send no token of TorchServe's; whoever reaches the pod may still not manage its models.
    "token_authorization": "management",
    # What is served stands in the storage, and a pod starts once.
    "snapshot_folder": None,
}
"""What a start of TorchServe's has in a pod in place of its defaults."""


def is_mounted(place: str | os.PathLike[str] | None) -> bool:
    """Whether a path lies in the folder that KServe mounts.

    >>> is_mounted("/mnt/models/config/config.properties"), is_mounted("/mnt/models-old"), is_mounted(None)
    (True, False, False)
    """
    return place is not None and Path(os.path.normpath(place)).is_relative_to(MODELS)


def wait_for_folder(
    folder: Path,
    *,
    limit: float = _LONGEST_WAIT,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Return when a folder is there: as a model in an OCI image it is a link that comes after the start.

    It is waited for ``limit`` seconds at most, and standard error says so. Raises ``ClickException``.
    """
    began = clock()
    told = began - _TELL_EVERY
    while why := _why_absent(folder):
        waited = clock() - began
        if waited >= limit:
            raise click.ClickException(
                f"{folder} is not there after {limit:g} seconds{why}: mount the models there, or name"
                " another folder"
            )
        if clock() - told >= _TELL_EVERY:
            told = clock()
            print_line(f"Waiting for {folder}, for {limit - waited:.0f} seconds at most", err=True)
        sleep(_LOOK_EVERY)


def _why_absent(folder: Path) -> str:
    """Return what is known of a folder that is not there, or that this user may not look at; empty where it is there."""
    try:
        if folder.is_dir():
            return ""
        link = folder.readlink() if folder.is_symlink() else ""
    except OSError as error:  # such as the root of a process of another user
        return f" ({error.strerror})"
    return f" (it is a link to {link}, which is not)" if link else " (nothing lies there)"


def read_pod_variables(environ: MutableMapping[str, str]) -> list[str]:
    """Return a line for each variable of KServe's that means nothing here, and remove an envelope that nobody filled in.

    ``TS_SERVICE_ENVELOPE`` is the label ``serviceEnvelope`` of the InferenceService: without one it is empty, or
    the text of the runtime as it was, and then the envelope of the file counts.
    """
    envelope = environ.get(ENVELOPE)
    if envelope is not None and (not envelope.strip() or any(each in envelope for each in _UNFILLED)):
        del environ[ENVELOPE]
    lines = []
    protocol = environ.get("PROTOCOL_VERSION", "")
    if protocol and protocol not in (*_PROTOCOLS, *map(str.upper, _PROTOCOLS)) and "{{" not in protocol:
        lines.append(
            f"PROTOCOL_VERSION={protocol} is none of {', '.join(_PROTOCOLS)}; all of them are served"
        )
    if loading := sorted(name for name in environ if name.startswith(_OF_WRAPPER)):
        lines.append(
            f"not applicable here: {', '.join(loading)} (nothing asks again and again whether a model is loaded: the"
            " server is ready when its models are, and default_startup_timeout bounds the load of one)"
        )
    return lines


def explain_envelope(environ: Mapping[str, str], config: Config) -> list[str]:
    """Return a line where the envelope of the InferenceService does not count, as it does not in TorchServe."""
    envelope = environ.get(ENVELOPE, "")
    if config.enable_envvars_config or envelope in ("", config.service_envelope):
        return []
    own = config.service_envelope or "none"
    return [f"{ENVELOPE}={envelope} counts only with enable_envvars_config=true; the envelope is {own}"]
