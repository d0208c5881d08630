from mooring.backends.handler.envelopes import KServeEnvelope
