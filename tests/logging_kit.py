"""Puts the loggers of this process back as they were after a test that set them up."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mooring.observability.log_output.routes import NAMES


@contextmanager
def logging_restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:  # whoever sets logging up closes what was there, such as pytest's own
        logger.handlers[:] = []
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            for handler in logger.handlers:
                handler.close()
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate
