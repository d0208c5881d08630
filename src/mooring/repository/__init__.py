"""Where models are stored, and how what is stored becomes a ``ModelSpec``."""
