"""The table of Triton's configuration keys is Triton's own, and is what the guide shows."""

import importlib

import pytest
from google.protobuf.descriptor import FieldDescriptor

from mooring.repository.triton_schema import ENUMS, MESSAGES, SCALARS, Verdict, documented_keys

_PACKAGE = "inference."
# Newer than the client's own copy of the schema.
_LATER = {("ModelSequenceBatching", "generative_sequence")}
_SCALARS = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in vars(FieldDescriptor)
    if name.startswith("TYPE_")
}


def every_message():
    found, waiting = (
        {},
        [importlib.import_module("tritonclient.grpc.model_config_pb2").ModelConfig.DESCRIPTOR],
    )
    while waiting:
        message = waiting.pop()
        name = message.full_name.removeprefix(_PACKAGE)
        if name not in found:
            found[name] = message
            values = [value_of(field) for field in message.fields]
            waiting += [value.message_type for value in values if value.message_type is not None]
    return found


def is_map(field):
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def value_of(field):
    return field.message_type.fields_by_name["value"] if is_map(field) else field


def type_of(field):
    kind = value_of(field).message_type or value_of(field).enum_type
    if kind is not None:
        return kind.full_name.removeprefix(_PACKAGE)
    scalar = _SCALARS[value_of(field).type]
    return "float" if scalar == "double" else scalar


TRITONS = every_message()


def test_the_table_has_every_message_of_triton_and_no_other():
    assert MESSAGES.keys() == TRITONS.keys()


@pytest.mark.parametrize("name", sorted(TRITONS))
def test_the_keys_of_a_message_are_tritons_own(name):
    keys = {each: key for each, key in MESSAGES[name].items() if (name, each) not in _LATER}
    assert set(keys) == set(TRITONS[name].fields_by_name)
    for field in TRITONS[name].fields:
        key = keys[field.name]
        keyed = _SCALARS[field.message_type.fields_by_name["key"].type] if is_map(field) else ""
        choice = field.containing_oneof.name if field.containing_oneof is not None else ""
        many = field.is_repeated and not is_map(field)
        assert (key.type, key.many, key.keyed, key.choice) == (type_of(field), many, keyed, choice), (
            field.name
        )


def test_the_values_of_an_enum_are_tritons_own():
    theirs = {
        kind.full_name.removeprefix(_PACKAGE): tuple(each.name for each in kind.values)
        for message in TRITONS.values()
        for kind in (value_of(field).enum_type for field in message.fields)
        if kind is not None
    }
    assert dict(ENUMS) == theirs


def test_every_key_is_of_a_known_type_and_every_one_that_decides_something_says_what():
    for keys in MESSAGES.values():
        assert {key.type for key in keys.values()} <= MESSAGES.keys() | ENUMS.keys() | SCALARS
    for path, key in documented_keys():
        assert key.note, path


def test_nothing_is_served_inside_what_is_not():
    served = {path for path, _ in documented_keys()}
    for path, key in documented_keys():
        if key.verdict is not Verdict.SERVED:
            assert not any(other.startswith(f"{path}.") for other in served), path
