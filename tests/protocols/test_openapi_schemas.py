"""A JSON Schema in OpenAPI 3.0.1 is valid, and accepts what the schema accepts."""

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_schema_validator import OAS30Validator

from mooring.protocols.openapi_schemas import Components

POINT = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}


def converted(schema):
    return Components().add(schema)


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({"type": ["string", "null"], "maxLength": 3}, {"type": "string", "maxLength": 3, "nullable": True}),
        ({"type": ["string", "integer"], "title": "t"},
         {"anyOf": [{"type": "string"}, {"type": "integer"}], "title": "t"}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
         {"type": "string", "nullable": True, "default": None}),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]},
         {"anyOf": [{"type": "string", "nullable": True}, {"type": "integer"}]}),
        ({"type": "null"}, {"enum": [None], "nullable": True}),
        ({"const": "a"}, {"enum": ["a"]}),
        ({"enum": ["a", None]}, {"type": "string", "enum": ["a", None], "nullable": True}),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "integer", "minimum": 0, "exclusiveMinimum": True}),
        ({"type": "array"}, {"type": "array", "items": {}}),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2},
         {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "minItems": 2}),
        ({"type": "array", "prefixItems": [{"type": "integer"}]}, {"type": "array", "items": {}}),
        ({"type": "string", "contentEncoding": "base64", "examples": ["aGk="]},
         {"type": "string", "format": "byte", "example": "aGk="}),
        ({"type": "string", "contentMediaType": "image/png"}, {"type": "string", "format": "binary"}),
        ({"type": "object", "required": [], "additionalProperties": False}, {"type": "object", "additionalProperties": False}),
        ({"type": "string", "default": None}, {"type": "string"}),
        ({"type": "object", "properties": {"a": True}, "patternProperties": {"b": {}}}, {"type": "object", "properties": {"a": {}}}),
    ],
)  # fmt: skip
def test_what_3_0_says_in_other_words(schema, found):
    assert converted(schema) == found
    OAS30Validator.check_schema(converted(schema))


def test_references_lead_to_components_and_have_what_stands_beside_them():
    components = Components()
    schema = components.add(
        {
            "type": "object",
            "properties": {
                "a": {"$ref": "#/$defs/A<int>"},
                "b": {"$ref": "#/$defs/A<int>", "description": "b"},
                "c": {"anyOf": [{"$ref": "#/$defs/A<int>"}, {"type": "null"}]},
                "d": {"oneOf": [{"$ref": "#/$defs/A<int>"}], "discriminator": {"propertyName": "k", "mapping": {"a": "#/$defs/A<int>"}}},
            },
            "$defs": {"A<int>": POINT},
        },
        "Mine",
    )  # fmt: skip
    reference = {"$ref": "#/components/schemas/MineA_int_"}
    assert components.schemas == {"MineA_int_": POINT}
    assert schema["properties"]["a"] == reference
    assert schema["properties"]["b"] == {"allOf": [reference], "description": "b"}
    assert schema["properties"]["c"] == {"anyOf": [reference, {"enum": [None], "nullable": True}]}
    assert "$defs" not in schema


def test_equal_definitions_are_shared_and_others_get_new_names():
    components = Components(["Error"])
    one = {"$ref": "#/$defs/P", "$defs": {"P": POINT}}
    assert components.add(one) == components.add(one) == {"$ref": "#/components/schemas/P"}
    assert components.add({"$ref": "#/$defs/P", "$defs": {"P": {"type": "string"}}}) == {
        "$ref": "#/components/schemas/P2"
    }
    assert components.add({"$ref": "#/$defs/Error", "$defs": {"Error": POINT}}) == {
        "$ref": "#/components/schemas/Error2"
    }
    assert set(components.schemas) == {"P", "P2", "Error2"}


LEAVES = st.sampled_from(
    [
        {"type": "integer", "exclusiveMinimum": 0}, {"type": "number", "maximum": 3}, {"type": "string", "minLength": 2},
        {"type": "boolean"}, {"type": "null"}, {}, {"enum": ["a", 1, None]}, {"const": "b"}, {"type": ["string", "null"]},
        {"type": ["integer", "string", "null"]},
    ]
)  # fmt: skip
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(lambda items: {"type": "array", "items": items}, inner)
        | st.builds(lambda items: {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)},
                    st.lists(inner, min_size=1, max_size=2))
        | st.builds(lambda arms: {"anyOf": arms}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(lambda found, more: {"type": "object", "properties": found, "additionalProperties": more},
                    st.dictionaries(st.sampled_from("ab"), inner, max_size=2), st.booleans() | inner)
    ),
    max_leaves=5,
)  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.floats(-2, 5)
    | st.sampled_from(["", "a", "b", "abc"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=4,
)


@given(SCHEMAS, VALUES)
def test_what_a_schema_accepts_is_accepted_by_its_conversion(schema, value):
    found = converted(schema)
    OAS30Validator.check_schema(found)
    if jsonschema.Draft202012Validator(schema).is_valid(value):
        assert OAS30Validator(found).is_valid(value)
