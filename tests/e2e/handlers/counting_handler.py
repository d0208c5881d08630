"""Records metrics in every way that TorchServe's API has."""

from ts.handler_utils.timer import timed
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.torch_handler.base_handler import BaseHandler


class Counting(BaseHandler):
    def initialize(self, context):
        self.context = context
        self.model_yaml_config = context.model_yaml_config
        metrics = context.metrics
        metrics.add_counter("Loads", 1)
        self.lengths = metrics.add_metric_to_cache("Lengths", "B", ["Kind"], MetricTypes.HISTOGRAM)

    @timed
    def preprocess(self, data):
        metrics = self.context.metrics
        metrics.add_counter("Rows", len(data), dimensions=[Dimension("Kind", "whole")])
        metrics.add_size("Room", 2.5)
        metrics.add_time("Pause", 7, unit="ms")
        metrics.add_counter("Rows", -100, dimensions=[Dimension("Kind", "whole")])
        metrics.add_percent("Share", float("nan"))
        metrics.add_counter("not a name", 1)
        metrics.get_metric("Declared", MetricTypes.GAUGE).add_or_update(11, ["x"])
        for row in data:
            self.lengths.add_or_update(len(row["body"]), ["body"])
        return [len(row["body"]) for row in data]

    @timed
    def inference(self, data):
        return data

    @timed
    def postprocess(self, data):
        return [str(length) for length in data]
