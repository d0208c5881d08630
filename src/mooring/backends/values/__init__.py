"""Functions and classes that take and give plain Python values: type hints say which."""
