"""Tells systemd that this server is ready (Type=notify of a unit). Runs in the first process.

The message is a datagram to the socket that NOTIFY_SOCKET names, as sd_notify(3) describes it.
"""

import os
import socket
from collections.abc import Mapping

from mooring.observability.logs import get_logger

log = get_logger(__name__)


def report_ready(models: int, environ: Mapping[str, str] = os.environ) -> None:
    """Say that the server serves so many models. Does nothing where no service manager has asked for it.

    A socket that cannot be reached is a warning: the manager ends the start when its own time is over.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    message = f"READY=1\nSTATUS=serving {models} model{'' if models == 1 else 's'}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            # A name that begins with @ is in the kernel's own name space, where it begins with a null byte.
            channel.sendto(message.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
    except OSError as error:
        log.warning("the service manager was not told that the server is ready", socket=address, reason=error)
