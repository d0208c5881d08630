from mooring.backends.handler.base_handler import PROFILER_AVAILABLE, BaseHandler
