from mooring.backends.handler.context import Context, RequestProcessor
