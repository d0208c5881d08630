from mooring.backends.handler.timer import timed
