from mooring.backends.handler.densenet_handler import DenseNetHandler, handle
