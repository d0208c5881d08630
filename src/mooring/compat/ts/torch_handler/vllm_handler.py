from mooring.backends.handler.absent import VLLMHandler
