"""A server under load: what admission costs by the length of the queue, and throughput and latency at one and three times its capacity.

The server is ``tain serve tain-mini`` in a process of its own; the client is this one.
"""

import asyncio
import json
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

from measuring import Claim, arguments, finish
from tain.serving.batching import Scheduler

TEXT = "how deep is the sea, and how far away is the shore of the other side"
QUEUES = (1, 100, 1000, 8000)


def submit_us(waiting: int, *, rounds: int) -> float:
    """Median microseconds to submit a request, and to cancel it, with so many waiting."""
    is_let = threading.Event()
    scheduler = Scheduler(max_wait_s=1e9)

    def compute(items: list[int]) -> list[int]:
        is_let.wait()
        return items

    queue = scheduler.queue("blocked", compute, probe=[0])
    futures: list[Future[list[int]]] = [queue.submit([0]) for _ in range(waiting)]
    times = []
    for _ in range(rounds):
        began_s = time.perf_counter()
        queue.submit([0]).cancel()
        times.append(time.perf_counter() - began_s)
    scheduler.abandon()
    is_let.set()
    scheduler.join(10.0)
    assert all(future.done() for future in futures)
    return round(1e6 * statistics.median(times), 2)


@dataclass(frozen=True)
class Running:
    """A server process: its port, and its number."""

    port: int
    pid: int


@contextmanager
def served(*arguments: str) -> Iterator[Running]:
    """Run ``tain serve`` on a free port."""
    command = [sys.executable, "-m", "tain", "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = ""
        while (found := re.search(r" at http://127\.0\.0\.1:(\d+)/", said)) is None:
            line = process.stderr.readline()
            if not line:
                sys.exit(f"error: the server ended: {said}")
            said += line
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would block the server
        yield Running(int(found[1]), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


class Load:
    """Requests of one text each at a steady rate, each on a connection of its own, whatever becomes of those before."""

    def __init__(self, port: int) -> None:
        body = json.dumps({"input": TEXT, "encoding_format": "base64"}).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        self._port, self._request = port, head.encode() + body

    async def one(self) -> tuple[int, float]:
        """Status and seconds of a request."""
        began_s = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(self._request)
        answer = await reader.read()
        writer.close()
        return int(answer.split(b" ", 2)[1]), time.perf_counter() - began_s

    async def capacity(self, seconds: float, *, clients: int = 32) -> float:
        """Requests answered per second when as many clients ask one after the other."""
        until_s, counts = time.perf_counter() + seconds, []

        async def client() -> None:
            while time.perf_counter() < until_s:
                status, _ = await self.one()
                counts.append(status == 200)

        began_s = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return sum(counts) / (time.perf_counter() - began_s)

    async def steady(self, rate: float, seconds: float) -> dict[str, float]:
        """Send at a rate for some time; returns what was answered and refused, and how long that took."""
        tasks, began_s = [], time.perf_counter()
        for number in range(max(1, int(rate * seconds))):
            await asyncio.sleep(max(0.0, began_s + number / rate - time.perf_counter()))
            tasks.append(asyncio.ensure_future(self.one()))
        found = await asyncio.gather(*tasks)
        taken_s = time.perf_counter() - began_s
        answered = sorted(seconds for status, seconds in found if status == 200)
        refused = [seconds for status, seconds in found if status == 429]
        assert len(answered) + len(refused) == len(found), "a request was neither answered nor refused with 429"
        return {
            "offered_per_s": round(rate, 1),
            "answered_per_s": round(len(answered) / taken_s, 1),
            "refused_share": round(len(refused) / len(found), 3),
            "p50_s": round(statistics.median(answered), 3),
            "p99_s": round(answered[int(0.99 * (len(answered) - 1))], 3),
            "refusal_p50_s": round(statistics.median(refused), 4) if refused else 0.0,
        }


def main():
    chosen = arguments(__doc__)
    seconds = 6.0 if chosen.quick else 30.0
    costs = {waiting: submit_us(waiting, rounds=200 if chosen.quick else 2000) for waiting in QUEUES}
    print(f"submit and cancel, microseconds by requests waiting: {costs}", file=sys.stderr, flush=True)

    # a student or a GPU answers faster than this client can ask; tain-mini on a CPU does not
    max_wait_s = 2.0 if chosen.quick else 5.0
    with served("tain-mini", "--device", "cpu", "--dtype", "float32", "--max-wait-s", f"{max_wait_s:g}") as server:
        load = Load(server.port)
        asyncio.run(load.capacity(seconds / 3))  # warm-up, and the server learns its speed
        capacity = asyncio.run(load.capacity(seconds))
        loads = {}
        for times in (0.5, 1, 3):
            loads[f"{times:g}x"] = asyncio.run(load.steady(times * capacity, seconds))
            print(f"{times:g} times the capacity of {capacity:.1f} requests a second: {loads[f'{times:g}x']}", file=sys.stderr, flush=True)

    ratio = costs[QUEUES[-1]] / costs[QUEUES[0]]
    kept = loads["3x"]["answered_per_s"] / capacity
    claims = [
        Claim(
            "cost of admission with 8,000 requests waiting",
            round(ratio, 2),
            "times that with one",
            2.0,
            (round(ratio, 2), round(ratio, 2)),
            None,
        ),
        Claim("throughput at three times the capacity", round(kept, 2), "of the capacity", 0.8, (round(kept, 2), round(kept, 2)), None),
    ]
    details = {"submit_us": costs, "capacity_per_s": round(capacity, 1), "max_wait_s": max_wait_s, "loads": loads}
    finish("serving_overload", claims, details, quick=chosen.quick)


if __name__ == "__main__":
    main()
