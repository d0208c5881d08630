from mooring.backends.handler.envelopes import BaseEnvelope
