"""A handler that answers ``3 n + 1``, and does what it is told to before: the same in every server under test."""

import ctypes
import json
import os
import select
import signal
import sys
import threading
import time
import zlib
from pathlib import Path


class Faults:
    def initialize(self, context):
        folder = Path(context.system_properties["model_dir"])
        self.leaked = []
        while (folder / "slow").exists():
            time.sleep(0.05)
        if (folder / "weights").read_text() != "the weights of this model":
            raise ValueError("these are not the weights of this model")
        if (folder / "deaf").exists():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if (folder / "parent").exists() and not os.fork():
            time.sleep(600)  # it has a copy of every descriptor, that of the channel among them

    def handle(self, data, context):
        rows = [self.asked(row) for row in data]
        if any(row.get("do") == "count" for row in rows):
            return ["too", "many"] * len(rows)
        return [self.answer(row) for row in rows]

    @staticmethod
    def asked(row):
        body = row.get("body", row.get("data"))
        return body if isinstance(body, dict) else json.loads(bytes(body))

    def answer(self, row):
        select.select([], [], [], row.get("seconds", 0.004))  # libfaketime breaks time.sleep
        getattr(self, f"do_{row['do']}", lambda _: None)(row) if "do" in row else None
        if row.get("do") == "nonsense":
            return threading.Lock()
        pad = row.get("pad", "").encode()
        answer = {"n": row["n"], "answer": 3 * row["n"] + 1, "pad": [len(pad), zlib.crc32(pad)]}
        if "large" in row:
            answer["large"] = "x" * row["large"]
        return answer

    def do_exit(self, _row):
        print("told to exit", flush=True)
        os._exit(3)

    def do_segfault(self, _row):
        ctypes.string_at(0)

    def do_deadlock(self, _row):
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()

    def do_leak(self, row):
        self.leaked.append(os.urandom(row["bytes"]))
        time.sleep(row.get("then", 0))

    def do_raise(self, _row):
        raise ValueError("told to raise")

    def do_flood(self, _row):
        for _ in range(2000):
            sys.stdout.write("a line that nobody reads\n" * 50)
