"""A Redis server of one's own, for benchmarks and tests: on a free port of this machine, nothing kept."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

PROGRAM = "redis-server"
READY = "Ready to accept connections"


class NoRedisError(RuntimeError):
    """No server can be had on this machine; the message says why."""


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """Start a server that works in ``directory``; gives its port, and ends it afterwards.

    Raises ``NoRedisError`` when redis-server is not installed or does not start.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise NoRedisError(f"{PROGRAM} is not installed (Debian: apt-get install redis-server)")
    port = _free_port()
    options = {"port": port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": directory}
    command = [program, *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            said = []
            for line in server.stdout:
                said.append(line)
                if READY in line:
                    break
            else:
                raise NoRedisError(f"{PROGRAM} did not start: {''.join(said[-3:]).strip()}")
            yield port
        finally:
            server.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
