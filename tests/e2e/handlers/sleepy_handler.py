"""Sleeps for as many seconds as the body says, and then says so."""

import time


def sleep(data, context):
    if data is None:
        return None
    seconds = [float(bytes(row["body"])) for row in data]
    time.sleep(max(seconds))
    return [f"slept {each}" for each in seconds]
