"""Keeps a total for every sequence, and says what it knows of each step."""

import json
import os
import time
from pathlib import Path

from ts.torch_handler.base_handler import BaseHandler


class Tally(BaseHandler):
    def initialize(self, context):
        self.context = context
        context.cache = {}
        self.initialized = True

    def handle(self, data, context):
        names = [context.get_sequence_id(index) for index in range(len(data))]
        assert len(set(names)) == len(names), f"a sequence is there twice: {names}"
        return [
            self.step(index, row, name) for index, (row, name) in enumerate(zip(data, names, strict=True))
        ]

    def step(self, index, row, name):
        context = self.context
        start = context.get_request_header(index, context.header_key_sequence_start)
        end = context.get_request_header(index, context.header_key_sequence_end)
        body = row.get("data") or row.get("body") or next(iter(row.values()))
        number = int(body if isinstance(body, (int, str)) else bytes(body))
        if number == -1:
            Path("asleep").touch()
            time.sleep(60)
        total = (0 if start == "true" else context.cache[name]) + number
        context.cache[name] = total
        if end == "true":
            del context.cache[name]
        return json.dumps({"id": name, "total": total, "start": start, "end": end, "pid": os.getpid()})
