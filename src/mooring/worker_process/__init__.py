"""What runs in a worker's process and in the templates that workers are forked from, and nowhere else.

The server's side of a worker is the package ``workers``.
"""
