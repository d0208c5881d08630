"""What goes wrong with the metrics of handlers, under TorchServe's names: handlers catch them."""

import yaml


class GeneralMetricsCacheError(Exception):
    """Something of the metrics failed for which there is no other name."""


class MetricsCacheIOError(OSError):
    """A file of metrics cannot be read."""


class MetricsCachePyYamlError(yaml.YAMLError):
    """A file of metrics is no YAML."""


class MetricsCacheTypeError(TypeError):
    """An argument has the wrong type."""


class MetricsCacheValueError(ValueError):
    """An argument has a value that means nothing, such as an unknown unit."""


class MetricsCacheKeyError(KeyError):
    """No metric is called so."""
