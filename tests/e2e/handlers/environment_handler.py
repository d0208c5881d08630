"""Says which of the variables that it is asked for it sees."""

import os


def handle(data, context):
    if data is None:
        return None
    return [{name: os.environ.get(name) for name in bytes(row["body"]).decode().split(",")} for row in data]
