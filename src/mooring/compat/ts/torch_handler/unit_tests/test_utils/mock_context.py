from mooring.backends.handler.mock_context import MockContext
