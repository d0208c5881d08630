from mooring.backends.handler.micro_batching import MicroBatching
