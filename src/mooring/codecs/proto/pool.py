"""Where our messages are defined: in a pool of our own.

The library's default pool holds one message of a name for the whole process, and tritonclient and KServe's client put
theirs there under the names of ours; either of them must be able to live in a process that imports Mooring.
"""

from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

POOL = DescriptorPool()


def define(file: bytes, namespace: dict[str, Any]) -> None:
    """Add a serialized file descriptor to the pool, and its messages and enums to a module's namespace."""
    name = FileDescriptorProto.FromString(file).name
    POOL.AddSerializedFile(file)
    found = POOL.FindFileByName(name)
    for message in found.message_types_by_name.values():
        namespace[message.name] = GetMessageClass(message)
    for enum in found.enum_types_by_name.values():
        namespace[enum.name] = EnumTypeWrapper(enum)
        namespace.update({value.name: value.number for value in enum.values})
