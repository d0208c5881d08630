"""Arrays in numpy's own files: never unpickled, and never larger than the bytes that came."""

import ast
import io
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from mooring.core.errors import InvalidInput
from mooring.core.tensors import Array, datatype_of

NPY = b"\x93NUMPY"
ZIP = b"PK\x03\x04"
_MAX_UNPACKED = 256 << 20
_MAX_MEMBERS = 256
# RuntimeError: a member is encrypted.
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError)


def read_npy(data: bytes | memoryview) -> Array:
    """The array of an .npy file, a view of its bytes. Raises ``InvalidInput``."""
    view = memoryview(data)
    dtype, shape, fortran, start = _header(view)
    count = 1
    for size in shape:
        count *= size
    # The header may claim any size: what is there decides, before anything is allocated.
    if count * dtype.itemsize != len(view) - start:
        raise InvalidInput(
            f"the npy file has {len(view) - start} bytes of data, its shape {list(shape)} of {dtype} "
            f"needs {count * dtype.itemsize}"
        )
    flat: Array = np.frombuffer(view, dtype, count, start) if count else np.empty(0, dtype)
    array = flat.reshape(shape, order="F" if fortran else "C")
    if dtype.kind in "SU":
        array = np.array(
            [str(e).encode() if isinstance(e, str) else e for e in flat.tolist()], object
        ).reshape(shape)
    datatype_of(array)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _header(view: memoryview) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Type, shape, order and where the data begins (numpy.lib.format, versions 1 to 3)."""
    try:
        if bytes(view[:6]) != NPY:
            raise ValueError("it does not begin as one")
        wide = view[6] > 1
        (length,) = struct.unpack_from("<I" if wide else "<H", view, 8)
        begin = 12 if wide else 10
        if length > 10_000 or begin + length > len(view):
            raise ValueError("its header is too long")
        header = ast.literal_eval(
            bytes(view[begin : begin + length]).decode("utf-8" if view[6] > 2 else "latin1")
        )
        dtype, shape, fortran = np.dtype(header["descr"]), header["shape"], header["fortran_order"]
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("its shape is none")
        if len(shape) > 32:
            raise ValueError("it has more than 32 dimensions")
    except (
        ValueError,
        KeyError,
        TypeError,
        SyntaxError,
        IndexError,
        RecursionError,
        MemoryError,
        struct.error,
    ) as error:
        raise InvalidInput(f"the body is not an npy file: {error}") from None
    if dtype.hasobject or dtype.fields is not None or not dtype.itemsize or dtype.subdtype is not None:
        raise InvalidInput(
            f"an npy file of {dtype} is not accepted; send numbers, booleans or fixed-width strings"
        )
    return dtype, shape, bool(fortran), begin + length


def read_npz(data: bytes | memoryview) -> dict[str, Array]:
    """The arrays of an .npz file by name. Raises ``InvalidInput``, also for one that unpacks to too much."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS or sum(member.file_size for member in members) > _MAX_UNPACKED:
                raise InvalidInput(
                    f"the npz file unpacks to more than {_MAX_UNPACKED} bytes or {_MAX_MEMBERS} arrays"
                )
            # zipfile stops at the size that the directory claims, so the sum above binds.
            return {
                member.filename.removesuffix(".npy"): read_npy(archive.read(member)) for member in members
            }
    except _DAMAGED as error:
        raise InvalidInput(f"the body is not an npz file: {error}") from None
    except NotImplementedError as error:
        raise InvalidInput(f"the npz file is packed in an unknown way: {error}") from None
