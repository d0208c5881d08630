from mooring.launcher import register_model, register_model_with_params, start, stop
