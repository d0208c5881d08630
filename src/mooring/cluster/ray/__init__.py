"""All that knows Ray: node actors, the controller's actor, reservations, and how commands find them.

Nothing else in Mooring imports Ray. Names of actors are those of the namespace ``NAMESPACE``, whoever asks.
"""
