"""Models written for Triton's Python backend: ``TritonPythonModel``, and the objects that its code knows as ``pb_utils``."""
