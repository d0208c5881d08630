from mooring.backends.handler.absent import TRTLLMHandler
