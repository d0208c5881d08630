"""What the processes of one server share: the messages between them, the arena of shared memory, a worker's progress.

Code of this package runs in the server process, in frontends and in workers alike.
"""
