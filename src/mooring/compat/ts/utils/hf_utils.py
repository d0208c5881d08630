from mooring.backends.handler.vendors import download_model
