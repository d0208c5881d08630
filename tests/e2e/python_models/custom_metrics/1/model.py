"""Counts, measures and observes what it is sent."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        labels = {"model": args["model_name"], "version": args["model_version"]}
        family = pb_utils.MetricFamily
        self.counter = family(
            name="sent_total", description="What was sent, added up", kind=family.COUNTER
        ).Metric(labels)
        self.gauge = family(name="sent_last", description="What was sent last", kind=family.GAUGE).Metric(
            labels=labels
        )
        self.histogram = family("sent", "How much is sent", pb_utils.MetricFamily.HISTOGRAM).Metric(
            labels=labels, buckets=[0.5, 2.5]
        )
        self.gauge.set(-1)

    def execute(self, requests):
        responses = []
        for request in requests:
            value = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            self.counter.increment(float(value[0]))
            self.gauge.set(float(value[0]))
            self.histogram.observe(float(value[0]))
            total = value * 0 + self.counter.value()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", total)]))
        return responses
