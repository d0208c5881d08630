from mooring.backends.handler.metrics import Metric
