"""The server's side of the workers: starting, feeding, watching, recycling and ending them.

What runs in a worker's own process is the package ``worker_process``.
"""
