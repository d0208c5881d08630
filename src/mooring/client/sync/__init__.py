# Made by scripts/unasync.py of aio/__init__.py: do not edit.
"""The client for code without asyncio."""
