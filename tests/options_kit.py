"""Values for options that are not those built in, whatever options there are: a new one is tested by being there."""

import enum
import types
import typing

from model_kit import GROUPS, model_options

from mooring.core.options import Control, ControlKind, ImplicitState, QueuePolicy, SequenceHeaders

OF_KIND = {
    int: lambda value: value + 7,
    float: lambda value: value + 7.5,
    str: lambda value: f"{value}x",
    bool: lambda value: not value,
    SequenceHeaders: lambda _: SequenceHeaders("X-Id", "X-Start", "X-End"),
    QueuePolicy: lambda _: QueuePolicy(levels=2, default_level=1),
    tuple[Control, ...]: lambda _: (Control("START", ControlKind.START, "FP32"),),
    tuple[ImplicitState, ...]: lambda _: (ImplicitState("S", "S_", "FP32", (1,), (1,)),),
    dict[str, str]: lambda _: {"zone": "a"},
    dict[str, float]: lambda _: {"licence": 2.0},
    tuple[int, ...]: lambda _: (2, 4),
    tuple[str, ...]: lambda _: ("ValueError",),
}


def unlike(group, option):
    """A value of the option's own type that it does not have by itself."""
    value, kind = getattr(group(), option), typing.get_type_hints(group)[option]
    if isinstance(kind, types.UnionType):
        kind, value = next(each for each in typing.get_args(kind) if each is not type(None)), False
    if kind in OF_KIND:
        return OF_KIND[kind](value)
    kind = typing.get_origin(kind) or kind
    if issubclass(kind, enum.Enum):
        return next(each for each in kind if each is not value)
    return OF_KIND[kind](value)


def unlike_all(**chosen):
    """Options of which none is as it is built in, but for those ``chosen``."""
    values = {option: unlike(kind, option) for kind in GROUPS.values() for option in kind.__struct_fields__}
    return model_options(**values | chosen)
