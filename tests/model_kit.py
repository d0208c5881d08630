"""Models for tests. Options are named without their groups: ``model_spec(max_batch_size=4, queue_size=7)``."""

from msgspec import structs

from mooring.core.options import ModelOptions
from mooring.repository.spec import Defaults, ModelSpec

GROUPS = {field.name: field.type for field in structs.fields(ModelOptions)}
GROUP_OF = {option: name for name, kind in GROUPS.items() for option in kind.__struct_fields__}
assert len(GROUP_OF) == sum(len(kind.__struct_fields__) for kind in GROUPS.values())


def model_options(**values):
    """The options that are built in, but for these; a whole group may be given by its name."""
    if {"min_workers", "max_workers"} & values.keys():
        values = {"workers_by_default": False} | values
    groups = {name: values.pop(name) for name in GROUPS if name in values}
    for option, value in values.items():
        name = GROUP_OF[option]
        groups[name] = structs.replace(groups.get(name, GROUPS[name]()), **{option: value})
    return ModelOptions(**groups)


def model_spec(name="m", version="1", location="", **fields):
    """A version of a model; what is no field of a ``ModelSpec`` is one of its options."""
    own = {field: fields.pop(field) for field in ModelSpec.__struct_fields__ if field in fields}
    options = own.pop("options", None) or model_options(**fields)
    return ModelSpec(name=name, version=version, location=str(location), options=options, **own)


def defaults(*, workers=1, sharing_workers=0, handler="", install_requirements=False, settings=(), **options):
    """What the server's settings say of models."""
    both = {"min_workers": workers, "max_workers": max(workers, 1), "workers_by_default": True}
    return Defaults(
        options=model_options(**both, **options),
        sharing_workers=sharing_workers,
        handler=handler,
        install_requirements=install_requirements,
        settings=dict(settings),
    )
