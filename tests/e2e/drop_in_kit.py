"""A start by TorchServe's command, with its configuration, and what its log files and its metrics page say."""

import re
import socket

from e2e_kit import Server, Wire, free_ports, request, until

HOST = socket.gethostname()
# TorchServe's log4j2.xml: ``%d{ISO8601} - %m%n``.
HEAD = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} - "
ACCESS = re.compile(HEAD + r'/127\.0\.0\.1:\d+ "(\w+ \S* HTTP/[\d.]+)" (\d+) (\d+)')
TS_METRIC = re.compile(HEAD + rf"(\w+)\.(\w+):(\d+\.\d+)\|#([^|]+)\|#hostname:{HOST},timestamp:\d{{10}}")
MODEL_METRIC = re.compile(
    HEAD + rf"(\w+)\.(\w+):(\d+\.\d+)\|#([^|]*)\|#hostname:{HOST},requestID:([^,]+),timestamp:\d{{10}}"
)


class DropIn(Server):
    """A start by TorchServe's command, and what its files say."""

    def lines(self, name, pattern):
        """What a pattern finds in each line of a file; every line must match it."""
        found = []
        for line in (self.folder / "logs" / f"{name}.log").read_text().splitlines():
            match = pattern.fullmatch(line)
            assert match, line
            found.append(match.groups())
        return found

    def log_of(self, name):
        return (self.folder / "logs" / f"{name}.log").read_text()

    def accessed(self):
        return self.lines("access_log", ACCESS)

    def told(self, call, status):
        """Wait for the line of a call, and return the milliseconds that it names."""
        until(lambda: [each for each in self.accessed() if each[:2] == (call, str(status))])
        return int(next(each[2] for each in reversed(self.accessed()) if each[:2] == (call, str(status))))


def configure(folder, store, *more, models=("measured.mar",)):
    """Write the configuration of a start; return its ports and the flags of the command."""
    ports = free_ports(5)
    keys = (
        f"inference_address=http://127.0.0.1:{ports[0]}", f"management_address=http://127.0.0.1:{ports[1]}",
        f"metrics_address=http://127.0.0.1:{ports[2]}", f"grpc_inference_port={ports[3]}",
        f"grpc_management_port={ports[4]}", "default_workers_per_model=1", *more,
    )  # fmt: skip
    (folder / "config.properties").write_text("\n".join(keys))
    flags = ("--start", "--foreground", "--ncs", "--disable-token-auth", "--model-store", store)
    return ports, [*flags, "--models", *models]


def drop_in(folder, store, *more, models=("measured.mar",)):
    """Start a server by TorchServe's command; return it when it serves."""
    ports, flags = configure(folder, store, *more, models=models)
    server = DropIn(folder, *flags, command="torchserve", ports=ports, environ={"TMPDIR": str(folder)})
    return server.started("Model server started.")


def page(server):
    with Wire(server.ports[2]) as wire:
        wire.send(request("GET", "/metrics"))
        return wire.answer().body.decode()
