"""TorchServe's ``metrics.yaml``: the metrics of their own that handlers declare in a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

KINDS = ("counter", "gauge", "histogram")


class DeclaredMetric(NamedTuple):
    """A metric of the file. ``kind`` is one of ``KINDS``."""

    name: str
    unit: str
    dimensions: list[str]
    kind: str


def read_metrics_file(path: Path) -> Iterator[DeclaredMetric]:
    """Every model metric of a file. Raises ``OSError``, or ``ValueError`` that names the file and the fault."""
    try:
        document = yaml.safe_load(path.read_text()) or {}
        for kind, metrics in (document.get("model_metrics") or {}).items():
            if kind not in KINDS:
                raise ValueError(f"'{kind}' is not a type of metric; there is {', '.join(KINDS)}")
            for metric in metrics or ():
                dimensions = [str(name) for name in metric.get("dimensions") or ()]
                yield DeclaredMetric(str(metric["name"]), str(metric["unit"]), dimensions, kind)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path}: a metric has no {error}") from error
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path}: model_metrics is not a table of lists of metrics by their type") from error
