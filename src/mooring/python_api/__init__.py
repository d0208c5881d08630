"""Servers from Python: ``mooring.serve``, and what it makes of Python objects and keyword arguments."""
