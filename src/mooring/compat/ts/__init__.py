"""The ``ts`` package that TorchServe handlers import: other names for ``mooring.backends.handler``, and nothing more.

It is put on the import path of a worker that runs a handler, and never installed under this name.
"""

from mooring.compat.ts.version import __version__
