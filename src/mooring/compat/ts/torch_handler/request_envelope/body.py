from mooring.backends.handler.envelopes import BodyEnvelope
