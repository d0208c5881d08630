"""The console: a page of the server on its inference address, and the interface by which the page asks and changes things.

Runs in the first process. Frontend processes relay to it. It knows protocols, observability and web, and not the engine.
"""
