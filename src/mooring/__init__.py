"""An inference server that speaks every serving protocol to every model. Importing does nothing."""

# Written here and read by the build: asking the installed package costs every worker 30 ms.
__version__ = "0.1.0"

__all__ = ["__version__"]
