from mooring.backends.handler.faults import PredictionException
from mooring.backends.handler.service import Service, emit_metrics
