"""The log level and the devices of the server, for the management protocols."""

import logging
from collections.abc import Mapping

from mooring import hardware
from mooring.core.errors import InvalidInput
from mooring.core.service import ServerAdministration
from mooring.observability.log_output.setup import set_log_level
from mooring.observability.logs import LEVELS, get_logger

log = get_logger(__name__)


class ServerControl(ServerAdministration):
    """The administration of this process."""

    def log_level(self) -> str:
        level = logging.getLogger("mooring").getEffectiveLevel()
        return next(
            name for name, number in sorted(LEVELS.items(), key=lambda item: item[1]) if level <= number
        )

    def set_log_level(self, level: str) -> None:
        if level not in LEVELS:
            raise InvalidInput(f"unknown log level '{level}'; known are {', '.join(LEVELS)}")
        set_log_level(level)
        log.info("log level changed", level=level)

    def devices(self) -> Mapping[str, int]:
        return hardware.find_devices()
