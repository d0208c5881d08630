"""Says in how large a batch a row came; a row with the word "bad" makes it raise, whatever the others are."""

import time

from ts.utils.util import PredictionException


class BatchHandler:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        words = [bytes(row["body"]).decode() for row in data]
        time.sleep(0.02)
        if any("bad" in word for word in words):
            raise ValueError("a bad row")
        if any("refused" in word for word in words):
            raise PredictionException("a refused row", 422)
        for index, word in enumerate(words):
            if "teapot" in word:
                context.set_response_status(418, "Teapot", index)
        return [{1, 2} if "unspeakable" in word else f"{word} of {len(words)}" for word in words]
