from mooring.backends.handler.metrics import MetricsStore as MetricCacheAbstract
