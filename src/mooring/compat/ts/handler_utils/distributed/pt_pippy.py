from mooring.backends.handler.absent import get_pipeline_driver, initialize_rpc_workers
