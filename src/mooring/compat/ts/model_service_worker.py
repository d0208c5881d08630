from mooring.backends.handler.absent import TorchModelServiceWorker
