"""What the controller of a cluster decides, and how it remembers it; without Ray. Runs in the controller.

``controller.py`` has the class that ``cluster/ray/`` wraps in an actor. Ray itself is behind ``cluster_port.py``.
"""
