"""The base class of handlers that run DeepSpeed in a parallel group."""

import os

from mooring.backends.handler.base_handler import BaseHandler
from mooring.backends.handler.context import Context


class BaseDeepSpeedHandler(BaseHandler):
    """Its ``device`` is the number of the GPU that is this rank's. A subclass loads the model (``get_ds_engine``)."""

    def initialize(self, context: Context) -> None:
        self.device = int(os.environ.get("LOCAL_RANK", "0"))
