from mooring.backends.handler.absent import AsyncService
