from mooring.backends.handler.metric_units import MetricUnit
from mooring.backends.handler.metrics import CachingMetric as MetricAbstract
