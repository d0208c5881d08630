from mooring.backends.handler.envelopes import KServev2Envelope
