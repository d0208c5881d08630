from mooring.backends.handler.base_handler import PROFILER_AVAILABLE, BaseHandler
from mooring.backends.handler.weights import setup_ort_session
