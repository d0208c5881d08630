"""All that exists only with ``frontends`` above 1: further processes that take connections beside the first one.

``process.py`` and ``service.py`` run in a frontend process; ``supervisor.py`` and ``balancer.py`` run in the first one.
"""
