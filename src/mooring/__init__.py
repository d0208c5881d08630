"""An inference server that speaks every serving protocol to every model. Importing does nothing."""

from importlib.metadata import version as _version

__version__ = _version("mooring")

__all__ = ["__version__"]
