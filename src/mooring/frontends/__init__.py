"""The frontends: processes that take connections beside the first one, with ``frontends`` above 1.

``process.py`` and ``service.py`` run in a frontend process; ``supervisor.py`` and ``balancer.py`` run in the first one.
"""
