"""Backends: how each kind of model is loaded and called. They run in worker processes. AMD calls them "workers"."""
