"""A language model of sorts, under continuous batching: it says its prompt word by word.

It is written as TorchServe's continuous batching wants it: a prompt is taken in when its request is new, the state of
a request lies in ``context.cache`` under its id, and a criterion for each row says when it has ended.
"""

import json
import os
import time

from ts.torch_handler.base_handler import BaseHandler


class Talking(BaseHandler):
    class Silence:
        """Ends a request when all its words have been said."""

        def __init__(self, cache, request_id):
            self.cache = cache
            self.request_id = request_id

        def __call__(self, result):
            if self.cache[self.request_id]:
                return False
            del self.cache[self.request_id]
            return True

    def initialize(self, context):
        self.context = context
        context.cache = {}
        self.steps = []

    def preprocess(self, data):
        cache, ids = self.context.cache, list(self.context.request_ids.values())
        for request_id, row in zip(ids, data, strict=True):
            if request_id in cache:
                assert row == {}, "what was sent before is not sent again"
            else:
                text = row.get("body") or row.get("text") or b""
                cache[request_id] = (text if isinstance(text, str) else bytes(text).decode()).split()
        for request_id in set(cache) - set(ids):  # their clients have left
            del cache[request_id]
        return ids

    def inference(self, ids):
        self.steps.append(len(ids))
        time.sleep(0.001)  # a model takes its time, and one word for ever would flood its client
        return [self.say(self.context.cache[request_id]) for request_id in ids]

    def say(self, words):
        word = words.pop(0) if words else ""
        if word == "burn":
            self.context.cache.clear()
            raise ValueError("the model burns")
        if word == "forever":
            words.append("forever")
        if word == "steps":
            word = json.dumps(self.steps)
        if word == "pid":
            word = str(os.getpid())
        return word + " " if words else word

    def postprocess(self, results):
        cache = self.context.cache
        self.context.stopping_criteria = [
            self.Silence(cache, request_id) for request_id in self.context.request_ids.values()
        ]
        return results
