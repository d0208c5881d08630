from mooring.backends.handler.vendors import get_dali_pipeline
