"""An asynchronous handler whose calls meet: what the body says is what a call does before it answers."""

import asyncio
import os

from ts.handler_utils.utils import send_intermediate_predict_response


def text_of(row):
    text = row.get("body") or row.get("text") or b""
    return text if isinstance(text, str) else bytes(text).decode()


class Meeting:
    async def initialize(self, context):
        await asyncio.sleep(0)
        self.here = 0
        self.cancelled = 0
        self.batches = []
        self.together = asyncio.Event()
        self.released = asyncio.Event()

    async def handle(self, data, context):
        rows = [text_of(row) for row in data]
        self.batches.append(len(rows))
        try:
            answers = await asyncio.gather(
                *(self.answer(row, word, context, len(rows)) for row, word in enumerate(rows))
            )
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return list(answers)

    async def answer(self, row, text, context, size):
        verb, _, rest = text.partition(" ")
        if verb == "meet":  # everybody waits for the last of so many
            self.here += 1
            if self.here == int(rest):
                self.here = 0
                self.together.set()
                self.together = asyncio.Event()
            else:
                await self.together.wait()
            return context.get_request_id(row)
        if verb == "whose":  # what belongs to a request, before and after others had their turn
            context.set_response_header(row, "X-Before", rest)
            await self.answer(row, "meet 8", context, size)
            context.set_response_header(row, "X-After", context.get_request_header(row, "X-Name"))
            context.set_response_status(200 + int(rest), "fine", row)
            return rest
        if verb == "thread":
            await self.answer(row, "meet 4", context, size)
            return await asyncio.to_thread(context.get_request_header, row, "X-Name")
        if verb == "wait":
            self.here += 1
            await self.released.wait()
            return "released"
        if verb == "release":
            self.released.set()
            self.here = 0
            self.released = asyncio.Event()
            return "done"
        if verb == "bad":
            raise ValueError(rest)
        if verb == "tell":
            for piece in rest.split(","):
                send_intermediate_predict_response([piece], context.request_ids, "", 200, context)
                await asyncio.sleep(0)
            return ""
        if verb == "for":
            await asyncio.sleep(float(rest))
            return "slept"
        if verb == "pid":
            await asyncio.sleep(float(rest or 0))
            return str(os.getpid())
        return {"here": self.here, "cancelled": self.cancelled, "batches": self.batches}
