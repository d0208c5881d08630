"""The words that metrics have for their units, and their form in JSON, under TorchServe's names for both."""

import json
from typing import Any

from mooring.backends.handler.metrics import Dimension, Metric
from mooring.observability.records import UNITS


class Units:
    """``units`` has the word for each short form: ``ms`` is Milliseconds."""

    def __init__(self) -> None:
        self.units: dict[str | None, str] = dict(UNITS.items())
        self.units[None] = UNITS[""]


MetricUnit = Units()


class MetricEncoder(json.JSONEncoder):
    """Writes metrics and dimensions as the objects that their ``to_dict`` gives."""

    def default(self, o: Any) -> Any:
        return o.to_dict() if isinstance(o, (Dimension, Metric)) else super().default(o)
