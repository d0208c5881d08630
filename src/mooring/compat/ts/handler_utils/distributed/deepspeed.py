from mooring.backends.handler.vendors import get_ds_engine
