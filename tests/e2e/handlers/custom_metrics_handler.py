"""Counts and measures its steps in every way that a handler can: what a metrics.yaml declares, and what it does not."""

import time

from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric
from ts.metrics.metric_cache_errors import MetricsCacheKeyError
from ts.metrics.metric_type_enum import MetricTypes
from ts.service import emit_metrics
from ts.torch_handler.base_handler import BaseHandler


class Measured(BaseHandler):
    def initialize(self, context):
        self.context = context
        self.model_yaml_config = context.model_yaml_config
        metrics = context.metrics
        own = [Dimension("ModelName", context.model_name), Dimension("Level", "Model")]
        metrics.add_metric("InitializeCallCount", 1, "count", dimensions=own, metric_type=MetricTypes.COUNTER)
        self.requests = metrics.add_metric_to_cache("InferenceRequestCount", "count", [], MetricTypes.COUNTER)

    def preprocess(self, data):
        began = time.perf_counter()
        metrics, name = self.context.metrics, self.context.model_name
        self.requests.add_or_update(1, [])
        metrics.get_metric("PreprocessCallCount", MetricTypes.COUNTER).add_or_update(1, [name])
        metrics.get_metric("RequestBatchSize", MetricTypes.GAUGE).add_or_update(len(data), [name])
        body = data[0].get("body")
        metrics.add_size("SizeOfImage", len(body) / 1024, None, "kB")
        took = (time.perf_counter() - began) * 1000
        metrics.add_time("HandlerMethodTime", took, None, "ms", [Dimension("MethodName", "preprocess")])
        return data

    def inference(self, data):
        return data

    def postprocess(self, data):
        metrics = self.context.metrics
        metrics.add_counter("PostprocessCallCount", 1)
        own = [Dimension("ModelName", self.context.model_name), Dimension("Level", "Model")]
        emit_metrics([Metric("Printed", 7, "ms", own, self.context.get_request_id(0))])
        metrics.add_percent("ExamplePercentMetric", 50, metric_type=MetricTypes.HISTOGRAM)
        try:
            metrics.get_metric("Nobody", MetricTypes.GAUGE)
        except MetricsCacheKeyError:
            metrics.get_metric("PostprocessCallCount").update(
                1,
                self.context.get_request_id(0),
                [Dimension("ModelName", self.context.model_name), Dimension("Level", "Model")],
            )
        return ["ok"] * len(data)
