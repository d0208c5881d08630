"""An example fits its schema, and says what the schema's author said first."""

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.example_values import example_value

NODE = {"$ref": "#/$defs/Node", "$defs": {"Node": {
    "type": "object", "required": ["value", "next"],
    "properties": {
        "value": {"type": "integer"},
        "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
        "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
    },
}}}  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        ({}, 1),
        (True, 1),
        ({"type": "string"}, "hello"),
        ({"type": "string", "minLength": 7}, "hellohe"),
        ({"type": "string", "maxLength": 2}, "he"),
        ({"type": "string", "format": "date"}, "2026-01-31"),
        ({"type": "string", "pattern": "^[A-Z]{3}$"}, "ABC"),
        ({"type": "string", "contentEncoding": "base64"}, "aGVsbG8="),
        ({"type": "string", "contentEncoding": "base64", "maxLength": 4}, "aGk="),
        ({"type": "string", "contentEncoding": "base64", "minLength": 10}, "aGVsaGVsaGVs"),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, 0.5),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}, 0.25),
        ({"type": "integer", "multipleOf": 7, "minimum": 8}, 14),
        ({"type": "integer", "default": 3, "examples": [4]}, 3),
        ({"type": "integer", "examples": [4]}, 4),
        ({"enum": ["a", "b"]}, "a"),
        ({"const": None}, None),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, "hello"),
        ({"type": ["null", "boolean"]}, True),
        ({"allOf": [{"type": "object", "properties": {"a": {"type": "null"}}}, {"required": ["a"]}]}, {"a": None}),
        ({"type": "array", "items": {"type": "string"}}, ["hello"]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2, "uniqueItems": True}, [1, 2]),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}, [1, "hello"]),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, {"key1": True}),
        ({"type": "object", "properties": {"a": {"type": "null", "default": None}, "b": {"default": 2}}}, {"a": None, "b": 2}),
        ({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"]}, {"b": 1}),
        (NODE, {"value": 1, "next": None}),
    ],
)  # fmt: skip
def test_examples_are_short_and_fit(schema, example):
    assert example_value(schema) == example
    jsonschema.validate(example, schema)


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "string", "pattern": "^a{17}b$"},
        {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/$defs/A"}}}}},
        {"$ref": "#/$defs/Nobody"},
    ],
)  # fmt: skip
def test_where_nothing_fits_or_is_found_it_says_so(schema):
    with pytest.raises(ValueError, match=r"fits|limits|pattern|itself|not in it"):
        example_value(schema)


@st.composite
def numbers(draw):
    kind = draw(st.sampled_from(["integer", "number"]))
    low = draw(st.integers(-50, 50) | st.floats(-50, 50))
    schema = {"type": kind}
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = low + draw(st.integers(2, 50))
    return schema


@st.composite
def texts(draw):
    schema = {"type": "string"}
    least = draw(st.integers(0, 12))
    if draw(st.booleans()):
        schema["minLength"] = least
    if draw(st.booleans()):
        schema["maxLength"] = least + draw(st.integers(0, 5))
    return schema


def lists(inner):
    return st.builds(
        lambda items, least, more, unique: {
            "type": "array", "items": items, "minItems": least, "maxItems": least + more, **({"uniqueItems": True} if unique else {}),
        },
        inner, st.integers(0, 2), st.integers(0, 2), st.just(False),
    )  # fmt: skip


def objects(inner):
    return st.builds(
        lambda properties, required, more: {
            "type": "object",
            "properties": properties,
            "required": [name for name, wanted in zip(properties, required, strict=False) if wanted],
            "additionalProperties": more,
        },
        st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
        st.lists(st.booleans(), max_size=3),
        st.booleans() | inner,
    )


SCHEMAS = st.recursive(
    numbers()
    | texts()
    | st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, {"enum": [None, "a"]}, {"const": [1]}]),
    lambda inner: (
        lists(inner)
        | objects(inner)
        | st.builds(lambda arms: {"anyOf": arms}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(
            lambda items: {"type": "array", "prefixItems": items, "items": False},
            st.lists(inner, min_size=1, max_size=2),
        )
    ),
    max_leaves=6,
)


NUMBERS = {"type": "array", "minItems": 50_000_000, "items": {"type": "number"}}


@pytest.mark.parametrize(
    "schema",
    [
        NUMBERS,
        {
            "type": "array",
            "minItems": 1000,
            "items": {"type": "array", "minItems": 1000, "items": {"type": "number"}},
        },
        {"anyOf": [NUMBERS, NUMBERS]},
        {"type": "object", "minProperties": 50_000_000},
        {"type": "string", "minLength": 4_000_000_000},
        {"type": "string", "minLength": 4_000_000_000, "contentEncoding": "base64"},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}},
    ],
)
def test_no_example_is_made_that_would_be_large_or_never_end(schema):
    with pytest.raises(ValueError, match=r"too large|too deep|more properties"):
        example_value(schema)


@given(SCHEMAS)
def test_an_example_fits_any_schema(schema):
    jsonschema.validate(example_value(schema), schema)


@given(
    numbers().map(lambda schema: {**schema, "minimum": -3, "maximum": 9, "type": "integer"})
    | texts().filter(lambda schema: schema.get("maxLength", 1)),
    st.integers(1, 3),
)
def test_items_that_must_differ_do(items, least):
    items = {key: value for key, value in items.items() if not key.startswith("exclusive")}
    schema = {"type": "array", "items": items, "minItems": least, "uniqueItems": True}
    jsonschema.validate(example_value(schema), schema)
