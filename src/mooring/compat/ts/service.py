from mooring.backends.handler.faults import PredictionException
from mooring.backends.handler.service import PREDICTION_METRIC, Service, emit_metrics
