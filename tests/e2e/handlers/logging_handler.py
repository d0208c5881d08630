"""A handler that logs and prints as handlers for TorchServe do."""

import logging

logger = logging.getLogger(__name__)


class Handler:
    def initialize(self, context):
        logger.info("INIT-INFO weights from %s", context.system_properties["model_dir"])

    def handle(self, data, context):
        print("A-PRINT")
        logger.debug("A-DEBUG")
        logger.info("AN-INFO batch of %d", len(data))
        logger.warning("A-WARNING")
        logging.info("ROOT-INFO")  # noqa: LOG015 - what handlers do
        try:
            raise ValueError("on purpose")
        except ValueError:
            logger.exception("A-FAILURE")
        if any("break" in row for row in data):
            raise ValueError("cannot be predicted")
        return ["ok" for _ in data]
