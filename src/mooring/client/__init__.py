"""Another server's models, from Python: over REST or gRPC, from asyncio code or from any other.

``aio`` is written by hand; ``scripts/unasync.py`` makes ``sync`` of it.
"""
