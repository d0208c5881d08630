from mooring.backends.handler.text_handler import TextHandler
