"""The system shared memory extension: tensors in memory that a client on this machine has named.

A region is read and written through its descriptor, never mapped: a client that shortened a mapped object would end
the server with a bus error. One copy is made either way, out of the region into the worker's memory.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mooring.codecs.raw import raw_of
from mooring.codecs.v2_json import REGION
from mooring.core.buffers import LARGE, Allocator, Payload, view_of
from mooring.core.errors import ElsewhereOnly, InvalidInput, ModelNotFound, MooringError
from mooring.core.tensors import Output, Parameter, Tensor, release
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.kserve import operations as calls
from mooring.protocols.kserve.bodies import Bodies
from mooring.protocols.responses import Responses
from mooring.protocols.status import Refusal, Target
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_OBJECTS = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory, by name
_MAX_REGIONS = 1024
_NAME, _SIZE, _OFFSET = REGION
_READING, _WRITING = frozenset({"GET", "HEAD"}), frozenset({"POST"})
SHARED_MEMORY_OFF = (
    "shared memory is off, since other machines reach this address: listen on 127.0.0.1 or a unix socket, or set"
    " insecure = true (--insecure)"
)
_OFF = Refusal(501, "UnsupportedOperationException", SHARED_MEMORY_OFF)


class Region(msgspec.Struct, frozen=True):
    """A piece of a shared memory object, under the name its client gave it."""

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: int

    def describe(self) -> dict[str, object]:
        """Return the region as the protocol shows it."""
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.byte_size}


class SharedMemory:
    """Every region that is registered, whichever protocol it came by."""

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._regions: dict[str, Region] = {}

    @staticmethod
    def available() -> bool:
        """Whether this system has shared memory that can be read by name."""
        return _OBJECTS.is_dir()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open a region. Raises ``InvalidInput``: for a name that is taken, a key that names no object, and a
        region beyond its end.
        """
        if name in self._regions:
            raise InvalidInput(f"shared memory region '{name}' is registered already; unregister it first")
        if len(self._regions) >= _MAX_REGIONS:
            raise InvalidInput(f"{_MAX_REGIONS} shared memory regions are registered; unregister one first")
        if offset < 0 or byte_size < 1:
            raise InvalidInput(f"shared memory region '{name}' needs a byte_size from 1 and an offset from 0")
        descriptor = _open_object(name, key)
        size = os.fstat(descriptor).st_size
        if offset + byte_size > size:
            os.close(descriptor)
            raise InvalidInput(
                f"shared memory region '{name}' ends at byte {offset + byte_size}, the object '{key}' has {size} bytes"
            )
        self._regions[name] = Region(name, key, offset, byte_size, descriptor)

    def unregister(self, name: str = "") -> None:
        """Forget a region, or every one. One that is not registered is forgotten already."""
        for each in [name] if name else list(self._regions):
            region = self._regions.pop(each, None)
            if region is not None:
                os.close(region.descriptor)

    def regions(self, name: str = "") -> list[Region]:
        """Return one region, or all. Raises ``ModelNotFound`` for a name that is not registered."""
        if not name:
            return list(self._regions.values())
        if name not in self._regions:
            raise ModelNotFound(f"shared memory region '{name}' is not registered")
        return [self._regions[name]]

    def read(self, name: str, offset: int, size: int) -> Payload:
        """Copy bytes out of a region. Raises ``InvalidInput``."""
        region = self._find_region(name, offset, size)
        start = region.offset + offset
        if size <= LARGE:
            data = os.pread(region.descriptor, size, start)
            if len(data) != size:
                raise _truncated_error(name)
            return data
        buffer = self._allocator.allocate(size)
        at = 0
        while at < size:
            count = os.preadv(region.descriptor, [buffer.view[at:]], start + at)
            if not count:
                buffer.release()
                raise _truncated_error(name)
            at += count
        return buffer

    def store(self, outputs: Iterable[Output]) -> None:
        """Put outputs whose parameters name a region there; they have no data then. Raises ``InvalidInput``."""
        for tensor in outputs:
            place = tensor.parameters
            if place and _NAME in place:
                assert type(tensor) is Tensor  # a worker writes no JSON of what goes to shared memory
                self._write_tensor(tensor, place)

    def _write_tensor(self, tensor: Tensor, place: Mapping[str, Parameter]) -> None:
        data = view_of(raw_of(tensor))
        offset, room = place.get(_OFFSET, 0), place.get(_SIZE, -1)
        if type(offset) is not int or type(room) is not int or offset < 0 or room < 0:
            raise InvalidInput(f"output '{tensor.name}' needs a number of bytes as shared_memory_byte_size")
        if len(data) > room:
            raise InvalidInput(
                f"output '{tensor.name}' has {len(data)} bytes, its place in shared memory has {room}"
            )
        region = self._find_region(str(place[_NAME]), offset, room)
        if os.fstat(region.descriptor).st_size < region.offset + offset + len(data):
            raise _truncated_error(region.name)
        start = at = region.offset + offset
        while at < start + len(data):
            at += os.pwrite(region.descriptor, data[at - start :], at)
        del data
        release([tensor])
        tensor.data = None
        tensor.parameters = {key: value for key, value in place.items() if key not in REGION} or None

    def _find_region(self, name: str, offset: int, size: int) -> Region:
        region = self._regions.get(name)
        if region is None:
            raise InvalidInput(f"shared memory region '{name}' is not registered")
        if offset + size > region.byte_size:
            raise InvalidInput(
                f"bytes {offset} to {offset + size} lie outside shared memory region '{name}' of {region.byte_size} bytes"
            )
        return region


def _truncated_error(name: str) -> InvalidInput:
    return InvalidInput(
        f"the object of shared memory region '{name}' was made shorter since it was registered"
    )


def elsewhere_only(region: str, _offset: int, _size: int) -> Payload:
    """Raise ``ElsewhereOnly``: this process has no regions of shared memory, and the request names one."""
    raise ElsewhereOnly(f"only the first process has the shared memory region '{region}'")


def missing_cuda_region(name: str) -> str:
    """The error text for a region of a GPU's memory that a client looks up."""
    return f"Unable to find cuda shared memory region: '{name}'"


def no_cuda_region(name: str) -> str:
    """The error text for a region of a GPU's memory that a client registers, as of a Triton without a GPU."""
    return f"failed to register CUDA shared memory region: '{name}', GPUs not supported"


def _open_object(name: str, key: str) -> int:
    """Open a shared memory object. Raises ``InvalidInput`` for everything but a regular file directly in ``/dev/shm``."""
    object_name = key.removeprefix("/")
    # Semaphores lie there too, as sem.NAME.
    if (
        not object_name
        or object_name in {".", ".."}
        or "/" in object_name
        or "\0" in object_name
        or object_name.startswith("sem.")
    ):
        raise InvalidInput(
            f"the key '{key}' of shared memory region '{name}' is not the name of an object; give /NAME"
        )
    try:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(_OBJECTS / object_name, flags)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"shared memory object '{key}' cannot be opened: {reason}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput(f"'{key}' is not a shared memory object")
    return descriptor


class SharedMemoryEndpoints:
    """The extension's endpoints; with ``memory`` None all of them say that it is off."""

    extensions = ("system_shared_memory",)

    def __init__(self, memory: SharedMemory | None, responses: Responses, bodies: Bodies) -> None:
        self._memory = memory
        self._responses = responses
        self._bodies = bodies

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints. CUDA's half answers as where there is no GPU."""
        path = "/v2/systemsharedmemory"
        region = f"{path}/region/{{region_name}}"
        return [
            Endpoint(f"{path}/status", self.status, Access.INFERENCE, calls.REGIONS, methods=_READING),
            Endpoint(
                f"{region}/status", self.status, Access.INFERENCE, calls.REGION_STATUS, methods=_READING
            ),
            Endpoint(
                f"{region}/register",
                self.register,
                Access.INFERENCE,
                calls.REGISTER,
                methods=_WRITING,
                changes=True,
            ),
            Endpoint(
                f"{path}/unregister",
                self.unregister,
                Access.INFERENCE,
                calls.UNREGISTER_ALL,
                methods=_WRITING,
                changes=True,
            ),
            Endpoint(
                f"{region}/unregister",
                self.unregister,
                Access.INFERENCE,
                calls.UNREGISTER,
                methods=_WRITING,
                changes=True,
            ),
            *self._cuda_endpoints(),
        ]

    def _cuda_endpoints(self) -> list[Endpoint]:
        path = "/v2/cudasharedmemory"
        region = f"{path}/region/{{region_name}}"
        return [
            Endpoint(
                f"{path}/status", self.cuda_status, Access.INFERENCE, calls.CUDA_REGIONS, methods=_READING
            ),
            Endpoint(
                f"{region}/status",
                self.cuda_status,
                Access.INFERENCE,
                calls.CUDA_REGION_STATUS,
                methods=_READING,
            ),
            Endpoint(
                f"{region}/register",
                self.register_cuda,
                Access.INFERENCE,
                calls.CUDA_REGISTER,
                methods=_WRITING,
                changes=True,
            ),
            Endpoint(
                f"{path}/unregister",
                self.unregister_cuda,
                Access.INFERENCE,
                calls.CUDA_UNREGISTER_ALL,
                methods=_WRITING,
                changes=True,
            ),
            Endpoint(
                f"{region}/unregister",
                self.unregister_cuda,
                Access.INFERENCE,
                calls.CUDA_UNREGISTER,
                methods=_WRITING,
                changes=True,
            ),
        ]

    def status(self, exchange: Exchange, match: Match) -> None:
        """List the registered regions."""
        memory = self._memory_or_refuse(exchange)
        if memory is None:
            return
        try:
            regions = memory.regions(match.params.get("region_name", ""))
        except MooringError as error:
            self._responses.send_refusal(
                exchange, Refusal(404, "ResourceNotFoundException", "", error.message)
            )
            return
        self._responses.send_json(exchange, [region.describe() for region in regions])

    def register(self, exchange: Exchange, match: Match) -> None:
        """Take a region into use."""
        memory = self._memory_or_refuse(exchange)
        if memory is None:
            return
        name = match.params["region_name"]

        def respond(document: dict[str, Any]) -> None:
            key, offset, size = document.get("key"), document.get("offset", 0), document.get("byte_size")
            if type(key) is not str or type(offset) is not int or type(size) is not int:
                raise InvalidInput(
                    f"to register region '{name}' send key (a string), byte_size and offset (numbers of bytes)"
                )
            memory.register(name, key, offset, size)
            self._responses.send_body(exchange, b"", "")

        self._bodies.take_object(exchange, respond, Target())

    def unregister(self, exchange: Exchange, match: Match) -> None:
        """Forget a region, or every one."""
        memory = self._memory_or_refuse(exchange)
        if memory is not None:
            memory.unregister(match.params.get("region_name", ""))
            self._responses.send_body(exchange, b"", "")

    def cuda_status(self, exchange: Exchange, match: Match) -> None:
        """List no region: none can be registered."""
        name = match.params.get("region_name", "")
        if name:
            refusal = Refusal(404, "ResourceNotFoundException", "", missing_cuda_region(name))
            self._responses.send_refusal(exchange, refusal)
        else:
            self._responses.send_json(exchange, [])

    def register_cuda(self, exchange: Exchange, match: Match) -> None:
        """Refuse: the server has no memory of a GPU that clients could share."""
        refusal = Refusal(400, "BadRequestException", no_cuda_region(match.params["region_name"]))
        self._responses.send_refusal(exchange, refusal)

    def unregister_cuda(self, exchange: Exchange, match: Match) -> None:
        """Forget a region, or every one: there is none."""
        self._responses.send_body(exchange, b"", "")

    def _memory_or_refuse(self, exchange: Exchange) -> SharedMemory | None:
        if self._memory is None:
            self._responses.send_refusal(exchange, _OFF)
        return self._memory
