"""Where servers of the Open Inference Protocol differ: one struct of switches for the v2 endpoints."""

import math

import msgspec
import orjson

from mooring.config.settings import Config
from mooring.core.buffers import view_of
from mooring.core.errors import InvalidInput, ModelLoadFailed, ModelNotFound, MooringError, VersionNotFound
from mooring.core.requests import InferenceResponse
from mooring.core.service import ModelAdministration
from mooring.core.tensors import Output, Tensor
from mooring.protocols.status import Refusal, Target, kserve_v2


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How v2 is spoken on one listener. The defaults are ours, ``AMD`` is the AMD Inference Server's.

    ``server``            what the server calls itself
    ``workers``           a model is called a worker, and one that is not there is a bad request
    ``unloads_anything``  unloading what is not there succeeds
    ``plain_answers``     an answer has no model_version, always an id ("" where none was given) and always the
                          parameters of every output; its model_name is what the model's own code says, if it does
    ``platform``          what runs every model; empty: what its own configuration or backend is called
    ``lenient``           ids may be numbers, and inputs without names, or with equal ones, are taken by position
    ``unknown_not_found`` gRPC's ModelReady of a model that is not there is NOT_FOUND, and not false
    ``byte_shapes``       the shape of a BYTES output with one element counts its bytes, not its elements
    ``triton_texts``      errors begin with the words that Triton's own clients look for
    ``typed_outputs``     over gRPC typed contents are answered with typed contents, and not with raw ones
    """

    server: str = "mooring"
    workers: bool = False
    unloads_anything: bool = False
    plain_answers: bool = False
    byte_shapes: bool = False
    triton_texts: bool = False
    typed_outputs: bool = False
    platform: str = ""
    lenient: bool = False
    unknown_not_found: bool = False

    def override_refusal(self, error: MooringError, target: Target) -> Refusal | None:
        """Return what this dialect says of an error in place of v2's own words; None where it says nothing else."""
        if self.triton_texts and isinstance(error, ModelNotFound):
            return _triton_not_found(error, target)
        if not self.workers or not isinstance(error, ModelNotFound):
            return None
        name = f"{target.model}_{target.version}" if target.version else target.model
        message = f"Worker {name or error.model} not found"
        return Refusal(400, "ModelNotFoundException", message, message)

    def refusal_of(self, error: MooringError, target: Target) -> Refusal:
        """Return what this dialect says of an error over REST."""
        return self.override_refusal(error, target) or kserve_v2(error, target)

    def reword_load_error(self, error: MooringError, model: str) -> MooringError:
        """Return a failed load's error with the words that this dialect's clients look for in front."""
        if not self.triton_texts or not isinstance(error, ModelNotFound | ModelLoadFailed | InvalidInput):
            return error
        missing = isinstance(error, ModelNotFound)
        kind = InvalidInput if isinstance(error, InvalidInput) else ModelLoadFailed
        reason = "failed to poll from model repository" if missing else error.message
        return kind(f"failed to load '{model}', {reason}", model=model, detail=error.detail)

    def set_model_name(self, response: InferenceResponse, target: Target) -> None:
        """Give an answer the name and the version that it has in this dialect."""
        if not self.plain_answers:
            response.model = target.model
        else:
            response.model = response.model or target.model
            response.version = ""

    def set_output_shape(self, output: Output) -> None:
        """Give an output that does not travel raw the shape that it has in this dialect."""
        if not self.byte_shapes or output.datatype != "BYTES" or output.data is None:
            return
        if math.prod(output.shape) != 1:
            return
        if type(output) is Tensor:
            if not output.packed and len(output.data) == 1:  # packed: so many that each costs time here
                output.shape = [len(output.data[0])]
            return
        texts = orjson.loads(view_of(output.data))
        if len(texts) == 1:
            output.shape = [len(texts[0].encode())]


def _triton_not_found(error: MooringError, target: Target) -> Refusal:
    what = f"'{target.model or error.model}'"
    if isinstance(error, VersionNotFound):
        version = target.version or error.version
        if not version.isdecimal():
            message = (
                f"failed to get model version from specified version string '{version}': expected a number"
            )
            return Refusal(400, "BadRequestException", message, message)
        what = f"{what} version {version}"
    message = f"Request for unknown model: {what} is not found"
    return Refusal(404, "ModelNotFoundException", message, message)


V2 = Dialect()
TRITON = Dialect(server="triton", unloads_anything=True, triton_texts=True)
AMD = Dialect(
    server="amdinfer",
    workers=True,
    unloads_anything=True,
    plain_answers=True,
    byte_shapes=True,
    typed_outputs=True,
    platform="CPU",
    lenient=True,
    unknown_not_found=True,
)


def dialect_for(config: Config) -> Dialect:
    """Return the dialect of a server with these settings."""
    dialect = {"amd": AMD, "triton": TRITON}.get(config.dialect, V2)
    typed = dialect.typed_outputs if config.grpc_typed_outputs is None else config.grpc_typed_outputs
    return msgspec.structs.replace(dialect, server=config.server_name or dialect.server, typed_outputs=typed)


def resolve_name(name: str, administration: ModelAdministration) -> str:
    """Return the name of a model that is there: the lower-case one where only that is.

    AMD's server lower-cases the name of every model that it loads.
    """
    lower = name.lower()
    if lower == name:
        return name
    known = {state.name for state in administration.index()}
    return lower if lower in known and name not in known else name
