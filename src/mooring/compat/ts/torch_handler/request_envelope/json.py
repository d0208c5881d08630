from mooring.backends.handler.envelopes import JSONEnvelope
