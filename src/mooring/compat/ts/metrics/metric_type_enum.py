from mooring.backends.handler.metrics import MetricTypes
