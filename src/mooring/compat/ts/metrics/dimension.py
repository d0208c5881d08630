from mooring.backends.handler.metrics import Dimension
