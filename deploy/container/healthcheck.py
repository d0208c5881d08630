"""Whether the server of this container is ready: status 0 or 1. It runs every few seconds, so it imports little.

HEALTHCHECK_URL names another address, as for a server on another port. Over TLS the certificate is not verified: the
server is asked by an address of its own container, which no certificate names.
"""

import os
import ssl
import sys
import urllib.error
import urllib.request

URL = os.environ.get("HEALTHCHECK_URL", "http://127.0.0.1:8080/v2/health/ready")
# Below the timeout of HEALTHCHECK, so that the reason is told.
TIMEOUT = 4.0


def main() -> int:
    """Ask the server; print why it is not ready."""
    context = ssl._create_unverified_context() if URL.startswith("https:") else None  # noqa: S323, SLF001
    # No proxy of the environment stands between a container and itself.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=context)] if context else [])
    )
    try:
        with opener.open(URL, timeout=TIMEOUT):
            return 0
    except (OSError, ValueError) as error:
        print(f"{URL}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
