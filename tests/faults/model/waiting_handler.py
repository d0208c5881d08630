"""The same handler, for a server that lets requests overlap: it waits instead of working."""

import asyncio

from fault_handler import Faults


class Waiting(Faults):
    async def handle(self, data, context):
        rows = [self.asked(row) for row in data]
        await asyncio.sleep(0.02)
        return [self.answer(row | {"seconds": 0}) for row in rows]
