"""Prometheus' text format 0.0.4: how families, labels and numbers are written.

Nothing is formatted twice: what is the same at every scrape, names, buckets and the places of labels, is a template of a
family, and the numbers of one series are put in by one operation.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import Metric

from mooring.observability.histogram import Histogram

# In a template they stand for the labels of the series; the second one for those and a comma, where there are any.
_LABELS, _MORE_LABELS = "\0", "\1"
_SUFFIXES = {"histogram": ("_bucket", "_count", "_sum")}

Number = int | float


class Family(NamedTuple):
    """One metric. ``kind`` is counter, gauge or histogram."""

    name: str
    text: str
    kind: str

    @property
    def head(self) -> str:
        """The two lines before its samples."""
        return f"# HELP {self.name} {self.text}\n# TYPE {self.name} {self.kind}\n"

    @property
    def sample_names(self) -> tuple[str, ...]:
        """The names of its samples."""
        return tuple(self.name + suffix for suffix in _SUFFIXES.get(self.kind, ("",)))


class Page:
    """The text of one scrape. ``names`` are the families and samples that were asked for; None for all."""

    def __init__(self, names: Collection[str] | None = None) -> None:
        self._names = names
        self._parts: list[str] = []

    def wants(self, family: Family) -> bool:
        """Whether any sample of a family was asked for."""
        names = self._names
        return names is None or family.name in names or any(name in names for name in family.sample_names)

    def add(self, family: Family, samples: Iterable[str]) -> None:
        """Add samples, each text one or more whole lines; a family without any is left out."""
        names = self._names
        if not self.wants(family):
            return
        if names is not None and family.name not in names:
            # Not by splitlines: what it takes for the end of a line may stand in a label.
            lines = (f"{line}\n" for text in samples for line in text.split("\n")[:-1])
            samples = (line for line in lines if _name_of(line) in names)
        parts = list(samples)
        if parts:
            self._parts.append(family.head)
            self._parts += parts

    def add_metric(self, metric: Metric) -> None:
        """Add a family of prometheus_client's."""
        # Not by prometheus_client's generate_latest, which appends _total to the name of every counter: TorchServe's
        # Requests2XX and ts_queue_latency_microseconds are counters without it.
        names = self._names
        samples = [s for s in metric.samples if names is None or s.name in names or metric.name in names]
        if not samples:
            return
        # The family of a prometheus_client Counter has no suffix in its name; its samples have.
        plain = metric.type != "counter" or any(sample.name == metric.name for sample in metric.samples)
        name = metric.name if plain else f"{metric.name}_total"
        self._parts.append(Family(name, metric.documentation, metric.type).head)
        for sample in samples:
            labels = format_labels(sample.labels)
            place = f"{{{labels}}}" if labels else ""
            self._parts.append(f"{sample.name}{place} {format_number(sample.value)}\n")

    def encode(self) -> bytes:
        """The text so far."""
        return "".join(self._parts).encode()


def _name_of(line: str) -> str:
    return line.partition(" ")[0].partition("{")[0]


def sample_template(name: str, *further: str, number: str = "%d") -> str:
    r"""The samples of a series, one for each text of ``further`` labels; without any it is one sample.

    >>> fill(sample_template("up", 'on="1"', 'on="2"'), 'a="b"', (7, 8))
    'up{a="b",on="1"} 7\nup{a="b",on="2"} 8\n'
    """
    places = [_MORE_LABELS + each for each in further] or [_LABELS]
    return "".join(f"{name}{{{place}}} {number}\n" for place in places)


def histogram_template(name: str, bounds: Sequence[float]) -> str:
    """The samples of a histogram, to be filled with ``histogram_values``."""
    buckets = [f'le="{format_number(bound)}"' for bound in (*bounds, math.inf)]
    return "".join(
        (
            sample_template(f"{name}_bucket", *buckets),
            sample_template(f"{name}_count"),
            sample_template(f"{name}_sum", number="%r"),
        )
    )


def histogram_values(histogram: Histogram) -> tuple[Number, ...]:
    """The numbers for the template of a histogram: how many values were up to each bound, how many in all, their sum."""
    below = tuple(accumulate(histogram.counts))
    return (*below, below[-1], histogram.total)


def fill(template: str, labels: str, values: tuple[Number, ...]) -> str:
    """The samples of one series. ``labels`` are as ``format_labels`` gives them."""
    text = template % values
    if not labels:
        return text.replace("{" + _LABELS + "}", "").replace(_MORE_LABELS, "")
    return text.replace(_MORE_LABELS, labels + ",").replace(_LABELS, labels)


def format_labels(labels: Mapping[str, str]) -> str:
    r"""Labels as they stand between the braces.

    >>> format_labels({"model_name": 'a"b', "model_version": "1"})
    'model_name="a\\"b",model_version="1"'
    """
    return ",".join(f'{name}="{_escape_label(value)}"' for name, value in labels.items())


def version_labels(name: str, version: str) -> str:
    """The labels of a version of a model."""
    return format_labels({"model_name": name, "model_version": version})


def format_number(value: float) -> str:
    """Return a number in Prometheus' text format."""
    return "+Inf" if value == math.inf else repr(float(value))


def _escape_label(value: str) -> str:
    if _LABELS in value or _MORE_LABELS in value:  # no name that anybody reads has these
        value = value.replace(_LABELS, "?").replace(_MORE_LABELS, "?")
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
