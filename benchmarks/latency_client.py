"""Clients of a feature server, each of which asks again as soon as it is answered: for benchmarks.latency.

The processor is shared with the server, so this does as little as it can: bytes that are ready are written to
a connection that stays open, and an answer is read as far as its length, its status and the customer's id.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import uvloop


class Client(asyncio.Protocol):
    """One connection. It takes requests from the shared supply until there are none left."""

    def __init__(self, supply: Supply) -> None:
        self.supply = supply
        self.received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self.transport: Any = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Ask again when the answer is complete."""
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.received[:end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self.received) < end + 4 + length:
            return
        passed = time.perf_counter_ns() - self.begin
        right = head.startswith(b"http/1.1 200") and self.customer in self.received
        self.supply.answered(passed, None if right else bytes(self.received[:200]).decode(errors="replace"))
        self.received.clear()
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        """A server that closes the connection has not answered."""
        if self.begin:
            self.supply.answered(time.perf_counter_ns() - self.begin, f"connection lost: {error}")

    def _ask(self) -> None:
        following = self.supply.next()
        self.begin = 0
        if following is None:
            self.transport.close()
            return
        self.customer, request = following
        self.begin = time.perf_counter_ns()
        self.transport.write(request)


class Supply:
    """The requests that are left to be made, and the answers so far."""

    def __init__(self, host: str, customers: list[str], service: str, key: str, requests: int) -> None:
        self.requests = [
            (customer.encode(), _request(host, service, key, customer)) for customer in customers
        ]
        self.left = requests
        self.due = requests
        self.nanoseconds: list[int] = []
        self.errors: list[str] = []
        self.done = asyncio.get_running_loop().create_future()

    def next(self) -> tuple[bytes, bytes] | None:
        """A customer and the request for them."""
        if not self.left:
            return None
        self.left -= 1
        return self.requests[self.left % len(self.requests)]

    def failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End at a mistake of this program, which would otherwise wait for ever."""
        if not self.done.done():
            self.done.set_exception(context.get("exception") or RuntimeError(context["message"]))

    def answered(self, nanoseconds: int, error: str | None) -> None:
        """Count an answer."""
        self.nanoseconds.append(nanoseconds)
        if error is not None:
            self.errors.append(error)
        self.due -= 1
        if not self.due and not self.done.done():
            self.done.set_result(None)


def _request(host: str, service: str, key: str, customer: str) -> bytes:
    body = json.dumps({"feature_service": service, "entities": {key: [customer]}}).encode()
    head = f"POST /get-online-features HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _run(options: argparse.Namespace) -> dict[str, object]:
    address = urlsplit(options.url)
    customers = options.customers.read_text().split()
    loop = asyncio.get_running_loop()
    outcome: dict[str, object] = {}
    for requests in (options.warm_up, options.requests):
        supply = Supply(address.netloc, customers, options.service, options.key, requests)
        loop.set_exception_handler(supply.failed)
        begin = time.perf_counter()
        await asyncio.gather(
            *(
                loop.create_connection(lambda: Client(supply), address.hostname, address.port)  # noqa: B023
                for _ in range(options.clients)
            )
        )
        await supply.done
        seconds = time.perf_counter() - begin
        p50, p99 = np.percentile(np.array(supply.nanoseconds) / 1e6, [50, 99])
        outcome = {
            "p50": p50,
            "p99": p99,
            "per_second": requests / seconds,
            "requests": requests,
            "errors": len(supply.errors),
            "first_error": supply.errors[0] if supply.errors else "",
        }
    return outcome


def main() -> int:
    """Ask as the arguments say, and print the outcome as one line of JSON; times are in milliseconds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency_client", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("customers", type=Path, help="file with the customers' ids")
    parser.add_argument("--service", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--warm-up", type=int, default=500)
    print(json.dumps(uvloop.run(_run(parser.parse_args()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
