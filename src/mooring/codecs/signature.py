"""What a tensor model takes, as far as a codec must know it to make tensors of a body."""

from dataclasses import dataclass, field

from mooring.codecs.images import ImageSettings
from mooring.core.errors import InvalidInput
from mooring.core.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Signature:
    """Names, types and shapes of the inputs.

    ``names`` empty means any name will do. An input of ``names`` without a spec takes any type and shape; so do all
    others, but for ``datatype`` where that is set. ``lone`` is the input that a value without a name goes to; empty
    where there are several to choose from. ``aside`` is what a body may say beside its inputs (the target of an
    explanation), where no input has that name. ``nothing``: a request without inputs is complete.
    ``aliases`` are those of the ``names`` that stand for another one of them.
    """

    names: tuple[str, ...] = ()
    specs: dict[str, TensorSpec] = field(default_factory=dict)
    lone: str = "input"
    datatype: str = ""
    image: ImageSettings | None = None
    aside: str = ""
    nothing: bool = False
    aliases: frozenset[str] = frozenset()

    @classmethod
    def of(cls, inputs: list[TensorSpec], image: ImageSettings | None = None) -> "Signature":
        """The signature of a model that declares its inputs."""
        if not inputs:
            return cls(image=image)
        names = tuple(spec.name for spec in inputs)
        needed = [spec.name for spec in inputs if not spec.optional] or names
        lone = needed[0] if len(needed) == 1 else ""
        nothing = all(spec.optional for spec in inputs)
        return cls(names, {spec.name: spec for spec in inputs}, lone, image=image, nothing=nothing)

    def datatype_of(self, name: str) -> str:
        """The datatype that the input wants; empty for any. Raises ``InvalidInput`` for an unknown input."""
        spec = self.specs.get(name)
        if spec is not None:
            return spec.datatype
        if self.names and name not in self.names:
            raise InvalidInput(f"unexpected input '{name}'; the model takes {self.listed()}")
        return self.datatype

    def only(self) -> str:
        """The input a value without a name goes to. Raises ``InvalidInput`` where the model takes several."""
        if not self.lone:
            raise InvalidInput(f"name the inputs: the model takes {self.listed()}")
        return self.lone

    def described(self) -> str:
        """The names with types and shapes, for an error text: what a client may send."""
        if not self.names:
            return 'inputs by name, as in {"x": [1, 2]}'
        shown = [name for name in self.names if name not in self.aliases]
        return ", ".join(
            f"'{name}' ({spec.datatype} {list(spec.shape)})"
            if (spec := self.specs.get(name))
            else f"'{name}'"
            for name in shown
        )

    def listed(self) -> str:
        """The names, for an error text."""
        return ", ".join(f"'{name}'" for name in self.names if name not in self.aliases)
