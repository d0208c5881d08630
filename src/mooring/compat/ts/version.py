"""The TorchServe whose handlers are understood."""

__version__ = "0.12.0"
