"""From an order to the gateway: how soon a text goes out, how fast a backlog drains, and memory.

    uv run python benchmarks/messages.py [--backlog 5000] [--seconds 10]

The gateway is a handler in this process that accepts everything at once, so what is measured is
Savannah: first on the embedded default at 20 orders a second, then one `savannah worker` on a
durable Postgres and Redis. Everything is on 127.0.0.1 and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import uvicorn
from rest import fill, memory_mb, settings_of, started

from servers import free_port, own_postgres, own_redis

ORDERS_A_SECOND: Final = 20
CUSTOMERS: Final = 50
_NUMBER: Final = re.compile(r"ORD-\w{6}-\w")


class Gateway:
    """Accepts every text at once.

    Attributes:
        heard: when the text about each order came, by the order's number.
    """

    def __init__(self) -> None:
        self.heard: dict[str, float] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        at, body, more = time.perf_counter(), b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        form = parse_qs(body.decode())
        for number in _NUMBER.findall(form["message"][0]):
            self.heard.setdefault(number, at)
        row = {
            "statusCode": 101,
            "number": form["to"][0],
            "cost": "KES 0.8000",
            "status": "Success",
            "messageId": f"ATXid_{len(self.heard)}_{at}",
        }
        told = {"Message": "Sent to 1/1 Total Cost: KES 0.8000", "Recipients": [row]}
        answer = json.dumps({"SMSMessageData": told}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer)).encode()),
        ]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@contextmanager
def listening(gateway: Gateway) -> Iterator[str]:
    """The gateway in a thread of its own; its address."""
    port = free_port()
    config = uvicorn.Config(gateway, port=port, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def sending(database: str, gateway: str, **more: str) -> dict[str, str]:
    return settings_of(database) | {
        "AFRICAS_TALKING_BASE_URL": gateway,
        "AFRICAS_TALKING_API_KEY": "benchmark",
        "SMS_PHONE_LIMIT": "off",
        **more,
    }


def latency(seconds: float) -> None:
    """From the 201 of an order to the gateway's request, on the embedded default."""
    gateway = Gateway()
    with tempfile.TemporaryDirectory() as name, listening(gateway) as url:
        folder, port = Path(name), free_port()
        database = f"sqlite:///{folder / 'savannah.db'}"
        desk = asyncio.run(fill(database, orders_each=1))
        command = ["-m", "savannah", "serve", "--port", str(port)]
        with started(command, port, folder, settings=sending(database, url)) as server:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/api/orders/",
                data=json.dumps(
                    {"customer": desk.buyer, "item": "Laptop Computer", "amount": "999.99"}
                ).encode(),
                headers={
                    "Authorization": f"Bearer {desk.token}",
                    "Content-Type": "application/json",
                },
            )
            answered: dict[str, float] = {}
            began = time.perf_counter()
            for turn in range(int(seconds * ORDERS_A_SECOND)):
                time.sleep(max(0.0, began + turn / ORDERS_A_SECOND - time.perf_counter()))
                with urllib.request.urlopen(request, timeout=10) as answer:
                    at = time.perf_counter()
                    answered[json.loads(answer.read())["order_number"]] = at
            ends_at = time.monotonic() + 10
            while not answered.keys() <= gateway.heard.keys() and time.monotonic() < ends_at:
                time.sleep(0.02)
            lags = [(gateway.heard[number] - at) * 1000 for number, at in answered.items()]
            print(
                f"embedded, {ORDERS_A_SECOND} orders/s: from 201 to the gateway"
                f" p50 {statistics.median(lags):.1f} ms,"
                f" p99 {statistics.quantiles(lags, n=100)[98]:.1f} ms;"
                f" memory {memory_mb(server.pid):.0f} MB (PSS)",
                flush=True,
            )


def drain(backlog: int) -> None:
    """How fast one worker sends what has piled up, on Postgres and Redis."""
    gateway = Gateway()
    with (
        tempfile.TemporaryDirectory() as name,
        own_postgres(durable=True) as postgres,
        own_redis() as redis,
        listening(gateway) as url,
    ):
        folder, database = Path(name), postgres.fresh_database()
        each = -(-backlog // CUSTOMERS)
        asyncio.run(fill(database, orders_each=each))
        settings = sending(database, url, REDIS_URL=redis.url)
        command = ["-m", "savannah", "worker"]
        with started(command, 0, folder, settings=settings, waits=False) as worker:
            ends_at = time.monotonic() + 90
            while len(gateway.heard) < each * CUSTOMERS and time.monotonic() < ends_at:
                time.sleep(0.05)
            heard = sorted(gateway.heard.values())
            if len(heard) < 2:
                raise SystemExit((folder / "0.log").read_text()[-2000:])
            took = heard[-1] - heard[0]
            print(
                f"backlog of {each * CUSTOMERS}: {len(heard)} sent in {took:.1f} s,"
                f" {len(heard) / took:.0f} a second by one worker;"
                f" memory {memory_mb(worker.pid):.0f} MB (PSS)"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backlog", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    print(f"load of the machine {os.getloadavg()[0]:.1f}")
    latency(given.seconds)
    drain(given.backlog)


if __name__ == "__main__":
    main()
