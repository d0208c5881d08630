"""A BaseHandler subclass with an eager model: JSON lists of four numbers in, the network's two numbers out."""

import json

import torch
from ts.torch_handler.base_handler import BaseHandler


class EagerHandler(BaseHandler):
    def preprocess(self, data):
        rows = [row.get("data", row.get("body")) if isinstance(row, dict) else row for row in data]
        rows = [json.loads(bytes(row)) if isinstance(row, bytes | bytearray) else row for row in rows]
        return torch.tensor(rows, dtype=torch.float32, device=self.device)
