"""A host's cable that takes its time: frames are carried by this process, each some milliseconds late.

The kernel here has no netem. So the host's end on the bridge is taken off, and two packet sockets stand between it and the bridge.
Frames are whole ones: the ends that send into it do not leave cutting and checksums to a network card.
"""

import ctypes
import fcntl
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from pathlib import Path

_ETH_P_ALL = 3
_SIOCETHTOOL = 0x8946
_OFF = (
    0x17,
    0x1F,
    0x24,
)  # checksums, TCP segments and all other segments made by the card: ETHTOOL_STXCSUM, STSO, SGSO
_OUTGOING = 4
_LARGEST = 65_600


@contextmanager
def slow_cable(host, *, delay):
    """Make every frame from and to a host ``delay`` seconds late, until the end of the block."""
    network, port = host.network, host.network.port(host)
    ours, other = f"{network.name}s{host.number}", f"{network.name}t{host.number}"
    _ip("link", "add", ours, "type", "veth", "peer", "name", other)
    try:
        host.run(sys.executable, str(Path(__file__).resolve()), "eth0")
        switch_offloads_off(other)
        for name in (port, ours):  # the kernel's own stack answers nothing there
            Path(f"/proc/sys/net/ipv4/conf/{name}/arp_ignore").write_text("8")
        _ip("link", "set", other, "master", f"{network.name}b")
        for name in (ours, other):
            _ip("link", "set", name, "up")
        _ip("link", "set", port, "nomaster")
        with _Carrier(port, ours, delay):
            yield
    finally:
        _ip("link", "set", port, "master", f"{network.name}b")
        _ip("link", "del", ours)


class _Carrier:
    """Carries frames both ways between two network devices."""

    def __init__(self, one, other, delay):
        self._sockets = [_open(one), _open(other)]
        self._delay = delay
        self._stop = threading.Event()
        self._threads = []
        for source, sink in (self._sockets, self._sockets[::-1]):
            late = deque()
            for work in (self._take, self._give):
                self._threads.append(threading.Thread(target=work, args=(source, sink, late), daemon=True))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _take(self, source, _sink, late):
        while not self._stop.is_set():
            try:
                frame, (_, _, kind, *_more) = source.recvfrom(_LARGEST)
            except TimeoutError:
                continue
            if kind != _OUTGOING:
                late.append((time.monotonic() + self._delay, frame))

    def _give(self, _source, sink, late):
        while not self._stop.is_set():
            if not late or late[0][0] > time.monotonic():
                time.sleep(0.0005)
                continue
            with suppress(OSError):  # a full device loses a frame, as a real one does
                sink.send(late.popleft()[1])


def _open(name):
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    made.bind((name, 0))
    made.settimeout(0.1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
    return made


def switch_offloads_off(name):
    """Have the kernel cut and sum what is sent at a network device."""
    with socket.socket() as any_socket:
        for command in _OFF:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP", name.encode(), ctypes.addressof(value))
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)


def _ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


if __name__ == "__main__":
    switch_offloads_off(sys.argv[1])
