"""A server under mixed load against the offline rate of its model: throughput, latency, overload, memory, and every answer checked.

Requests have 1, 8 or 64 texts, of one to twelve sentences. The server is a process of its own; client and server share the machine. The
processor time of the client is measured: figures "without the client" subtract its share of the machine from the time of a load.

Parts, of which ``--parts`` runs some: ``small`` (single requests), ``mixed`` (throughput), ``overload`` (one and three times the capacity),
``memory`` (after the warm-up and after the other parts).
"""

import argparse
import asyncio
import base64
import json
import random
import statistics
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from measuring import Claim, finish, in_turns, processor_s, ratio_of, sts_sentences
from serving_overload import served
from tain.exported.encoder import ExportedEncoder
from tain.foundation.machine import usable_cores

SIZES, SHARES = (1, 8, 64), (0.5, 0.35, 0.15)
PARTS = ("small", "mixed", "overload", "memory")
RETRY_S = 0.1  # a refused client asks no sooner
# an int8 graph scales its inputs by the whole batch: two batches give one text vectors with a cosine of 0.943 at worst (some 400,000 answers)
NEEDED_COSINE = {"float32": 0.9999, "int8": 0.9}


@dataclass
class Texts:
    """The texts that are asked for, with the vectors that the model gives them offline.

    Attributes:
        texts: The texts.
        tokens: Tokens of each.
        vectors: float32 (texts, dim), of length 1.
    """

    texts: list[str]
    tokens: np.ndarray
    vectors: np.ndarray


@dataclass
class Tally:
    """What happened to the requests of one load."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    tokens: int = 0
    texts: int = 0
    worst_cosine: float = 1.0
    spent_s: float = 0.0
    client_s: float = 0.0  # processor time of this process
    server_s: float = 0.0  # of the server

    @property
    def without_client_s(self) -> float:
        """The time of the load, less the client's share of the machine."""
        return self.spent_s - self.client_s / usable_cores()

    @property
    def refused_share(self) -> float:
        return self.refused / (self.refused + len(self.seconds))

    @property
    def p50_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p99_s(self) -> float:
        return sorted(self.seconds)[int(0.99 * (len(self.seconds) - 1))]

    def figures(self) -> dict[str, float]:
        return {
            "answered_per_s": round(len(self.seconds) / self.spent_s, 2),
            "texts_per_s": round(self.texts / self.spent_s, 1),
            "tokens_per_s": round(self.tokens / self.spent_s, 1),
            "refused_share": round(self.refused_share, 3),
            "p50_s": round(self.p50_s, 4),
            "p99_s": round(self.p99_s, 4),
            "client_share": round(self.client_s / self.spent_s, 3),
            "server_us_per_token": round(1e6 * self.server_s / max(1, self.tokens), 1),
            "worst_cosine": round(self.worst_cosine, 7),
        }


class Connection:
    """A connection that is kept open, and opened again after the server closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        """Send a request; returns status and body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(b"POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await reader.readexactly(length)
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1]), answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Load:
    """Mixed requests to a server, each of whose answers is compared with the offline vectors."""

    def __init__(self, port: int, known: Texts) -> None:
        self._port, self.known, self._random = port, known, random.Random(0)

    def mixed(self) -> list[int]:
        """The texts of a request, by their number."""
        (size,) = self._random.choices(SIZES, SHARES)
        return [self._random.randrange(len(self.known.texts)) for _ in range(size)]

    async def one(self, connection: Connection, rows: list[int], tally: Tally) -> None:
        body = json.dumps({"input": [self.known.texts[row] for row in rows], "encoding_format": "base64"}).encode()
        began_s = time.perf_counter()
        status, answer = await connection.ask(body)
        if status == 429:
            tally.refused += 1
            await asyncio.sleep(RETRY_S)
            return
        assert status == 200, f"status {status}: {answer[:200]!r}"
        tally.seconds.append(time.perf_counter() - began_s)
        data = json.loads(answer)["data"]
        assert len(data) == len(rows)
        found = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in data])
        tally.worst_cosine = min(tally.worst_cosine, float((found * self.known.vectors[rows]).sum(axis=1).min()))
        tally.tokens += int(self.known.tokens[rows].sum())
        tally.texts += len(rows)

    async def full(self, seconds: float, *, clients: int) -> Tally:
        """Let as many clients ask one request after the other."""
        tally, until_s = Tally(), time.perf_counter() + seconds

        async def client() -> None:
            connection = Connection(self._port)
            while time.perf_counter() < until_s:
                await self.one(connection, self.mixed(), tally)
            connection.close()

        began_s = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        tally.spent_s = time.perf_counter() - began_s
        return tally

    async def steady(self, rate: float, seconds: float) -> Tally:
        """Send requests at a rate, whatever becomes of those before."""
        tally, tasks, began_s = Tally(), [], time.perf_counter()
        free: list[Connection] = []

        async def send() -> None:
            connection = free.pop() if free else Connection(self._port)
            try:
                await self.one(connection, self.mixed(), tally)
            except (ConnectionError, asyncio.IncompleteReadError):  # closed while it was not in use
                connection.close()
                await self.one(connection, self.mixed(), tally)
            free.append(connection)

        for number in range(max(1, int(rate * seconds))):
            await asyncio.sleep(max(0.0, began_s + number / rate - time.perf_counter()))
            tasks.append(asyncio.ensure_future(send()))
        await asyncio.gather(*tasks)
        for connection in free:
            connection.close()
        tally.spent_s = time.perf_counter() - began_s
        return tally

    def in_a_row(self, requests: list[list[int]]) -> Tally:
        """Send requests one after the other, on one connection."""

        async def run() -> Tally:
            tally, connection = Tally(), Connection(self._port)
            for rows in requests:
                await self.one(connection, rows, tally)
            connection.close()
            return tally

        return asyncio.run(run())


def measured(tally: Coroutine[Any, Any, Tally], pid: int) -> Tally:
    """Run a load, and note the processor time of both sides."""
    client_s, server_s = time.process_time(), processor_s(pid)
    found = asyncio.run(tally)
    found.client_s, found.server_s = time.process_time() - client_s, processor_s(pid) - server_s
    return found


def resident_mb(pid: int) -> float:
    """Memory of a process that is in use."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024, 1)


def mixed_texts(sentences: list[str], count: int) -> list[str]:
    """Texts of one to twelve sentences, most of them short."""
    rng = random.Random(1)
    lengths = rng.choices((1, 2, 4, 12), (0.7, 0.15, 0.1, 0.05), k=count)
    return [" ".join(rng.sample(sentences, length)) for length in lengths]


class Report:
    """Claims and details, printed as they come."""

    def __init__(self, **details: object) -> None:
        self.claims: list[Claim] = []
        self.loads: list[dict[str, object]] = []
        self.details: dict[str, Any] = {**details, "loads": self.loads}
        self.worst_cosine = 1.0

    def claim(self, name: str, value: float, unit: str, goal: float | None, spread: tuple[float, float] | None = None) -> None:
        self.claims.append(Claim(name, round(value, 3), unit, goal, spread or (round(value, 3), round(value, 3)), None))
        print(f"{name}: {value:.3f} {unit}", file=sys.stderr, flush=True)

    def memory(self, when: str, found_mb: float, warm_mb: float) -> None:
        self.details.setdefault("memory_mb", {"warm": warm_mb})[when] = found_mb
        self.claim(f"memory {when}", found_mb / warm_mb, "of that after the warm-up", 1.05)

    def load(self, name: str, tally: Tally, **more: float) -> None:
        self.worst_cosine = min(self.worst_cosine, tally.worst_cosine)
        self.loads.append({"load": name, **more, **tally.figures()})
        print(json.dumps({"load": name, **more, **tally.figures()}), file=sys.stderr, flush=True)


def small_requests(report: Report, load: Load, encoder: ExportedEncoder, *, quick: bool) -> None:
    """Requests one after the other against the same texts offline."""
    texts = load.known.texts
    rng = random.Random(2)
    for size in (8, 32):
        asked = [[rng.randrange(len(texts)) for _ in range(size)] for _ in range(3 if quick else 40)]
        times = in_turns(
            {
                "over HTTP": lambda asked=asked: load.in_a_row(asked),
                "offline": lambda asked=asked: [encoder.encode([texts[row] for row in rows], normalize=True) for rows in asked],
            },
            repeats=2 if quick else 10,
        )
        ratio, spread = ratio_of(times["over HTTP"], times["offline"])
        report.claim(f"requests of {size} texts over HTTP", ratio, "times the offline time", 1.15, spread)
    short = [[row] for row in np.argsort(load.known.tokens, kind="stable")[: 10 if quick else 200].tolist()]
    report.claim("one short text over HTTP, p50", 1000 * load.in_a_row(short).p50_s, "ms", None)


def mixed_load(report: Report, load: Load, encoder: ExportedEncoder, pid: int, *, seconds: float, rounds: int, clients: int) -> float:
    """Mixed load and the offline rate in turns, so that a slow minute hits both; returns the requests answered per second."""
    known, shares, own_shares, answered = load.known, [], [], []
    for _ in range(rounds):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        encoder.encode(known.texts, normalize=True)
        tokens = int(known.tokens.sum())
        rate, offline_us = tokens / (time.perf_counter() - began_s), 1e6 * (time.process_time() - began_cpu_s) / tokens
        tally = measured(load.full(seconds / rounds, clients=clients), pid)
        report.load("mixed", tally, offline_tokens_per_s=round(rate, 1), offline_us_per_token=round(offline_us, 1))
        shares.append(tally.tokens / tally.spent_s / rate)
        own_shares.append(tally.tokens / tally.without_client_s / rate)
        answered.append(len(tally.seconds) / tally.spent_s)
    for name, found in (("", shares), (", without the client", own_shares)):
        spread = (round(min(found), 3), round(max(found), 3))
        report.claim(f"throughput under mixed load{name}", statistics.median(found), "of the offline rate", 0.9, spread)
    return statistics.median(answered)


def overload(report: Report, load: Load, pid: int, capacity: float, *, seconds: float) -> None:
    """Requests at the capacity and at three times the capacity; latencies are those of answered requests."""
    once, thrice = (measured(load.steady(times * capacity, seconds), pid) for times in (1, 3))
    report.load("at the capacity", once, offered_per_s=round(capacity, 2))
    report.load("at three times the capacity", thrice, offered_per_s=round(3 * capacity, 2))
    report.claim("p99 at the capacity", once.p99_s, "s", None)
    report.claim("p99 of answered requests at three times the capacity", thrice.p99_s, "s", None)
    report.claim("p99 of answered requests at three times the capacity", thrice.p99_s / once.p99_s, "of that at the capacity", 1.5)
    report.claim("refused at the capacity", once.refused_share, "of the requests", None)
    report.claim("refused at three times the capacity", thrice.refused_share, "of the requests", None)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within two minutes: short loads, no results file")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data", help="folder of the evaluation data")
    parser.add_argument("--model", default="tain-mini", help="an exported encoder")
    parser.add_argument("--dtype", default="float32", choices=("float32", "int8"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured; default: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of mixed load; each overload takes a fifth of it")
    parser.add_argument("--max-wait-s", type=float, default=1.0, help="of the server")
    parser.add_argument("--clients", type=int, default=8, help="of the mixed load; each asks one request after the other")
    chosen = parser.parse_args()
    load_s = 10.0 if chosen.quick else 60 * chosen.minutes
    encoder = ExportedEncoder.load(chosen.model, dtype=chosen.dtype)
    texts = mixed_texts(sts_sentences(chosen.data), 60 if chosen.quick else 4000)
    known = Texts(texts, np.array(encoder.count_tokens(texts)), encoder.encode(texts, normalize=True))
    report = Report(
        model=chosen.model,
        dtype=chosen.dtype,
        max_wait_s=chosen.max_wait_s,
        clients=chosen.clients,
        load_s=load_s,
        cores=usable_cores(),
    )
    arguments = [chosen.model, "--backend", "onnx", "--dtype", chosen.dtype, "--max-wait-s", f"{chosen.max_wait_s:g}"]
    with served(*arguments) as server:
        load = Load(server.port, known)
        warm_up = measured(load.full(max(5.0, load_s / 10), clients=chosen.clients), server.pid)  # and the server learns its speed
        report.load("warm-up", warm_up)
        warm_mb = resident_mb(server.pid)
        if "small" in chosen.parts:
            small_requests(report, load, encoder, quick=chosen.quick)
        capacity = len(warm_up.seconds) / warm_up.spent_s
        if "mixed" in chosen.parts:
            capacity = mixed_load(
                report, load, encoder, server.pid, seconds=load_s, rounds=2 if chosen.quick else 10, clients=chosen.clients
            )
            report.memory("after the mixed load", resident_mb(server.pid), warm_mb)
        if "overload" in chosen.parts:
            overload(report, load, server.pid, capacity, seconds=max(8.0, load_s / 5))
        if "memory" in chosen.parts:
            if not {"mixed", "overload"} & set(chosen.parts):
                report.load("memory", measured(load.full(load_s, clients=chosen.clients), server.pid))
            report.memory("at the end", resident_mb(server.pid), warm_mb)
    report.claim("worst cosine of an answer with the offline vector", report.worst_cosine, "", NEEDED_COSINE[chosen.dtype])
    print(json.dumps(report.details), file=sys.stderr)
    assert report.worst_cosine > NEEDED_COSINE[chosen.dtype], "an answer is not the vector of its text"
    is_whole = set(chosen.parts) == set(PARTS)
    finish("serving_speed" if is_whole else f"serving_speed_{'_'.join(chosen.parts)}", report.claims, report.details, quick=chosen.quick)


if __name__ == "__main__":
    main()
