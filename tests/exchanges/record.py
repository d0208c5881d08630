"""Records what the server of this tree answers: ``make record-exchanges ARGS="[SERVER ...]"``."""

import sys
import time

from exchanges.groups import GROUPS, RECORDED
from exchanges.player import play
from exchanges.servers import started


def main(chosen: list[str]) -> None:
    for server in chosen or GROUPS:
        began = time.monotonic()
        with started(server) as ports:
            up = time.monotonic()
            for name, exchanges in GROUPS[server].items():
                text = play(exchanges, ports)
                (RECORDED / f"{name}.txt").write_text(text)
                print(f"{name}: {len(exchanges)} exchanges, {len(text)} characters")
        print(f"{server}: up after {up - began:.1f} s, done after {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
