"""The composition root of the first process: ``startup.py`` is what begins before it is built, ``server.py`` builds it."""
