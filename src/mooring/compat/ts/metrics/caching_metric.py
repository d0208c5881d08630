from mooring.backends.handler.metrics import CachingMetric
