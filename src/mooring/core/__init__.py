"""The vocabulary every other package speaks; imports nothing but numpy and msgspec."""
