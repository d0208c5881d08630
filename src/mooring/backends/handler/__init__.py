"""TorchServe handlers, run as TorchServe runs them (docs/contracts/torchserve.md, sections 2 and 3).

What users import as ``ts`` lives here too; ``mooring.compat.ts`` only gives it those names.
"""
