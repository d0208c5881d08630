from mooring.backends.handler.absent import BasePippyHandler
