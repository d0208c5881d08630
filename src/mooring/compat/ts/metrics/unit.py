from mooring.backends.handler.metric_units import Units
