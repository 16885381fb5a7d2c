"""A server under mixed load against the offline rate of its model: throughput, latency, overload, memory, and every answer checked.

Requests have 1, 8 or 64 texts, of one to twelve sentences. The server is a process of its own; client and server share the machine.
"""

import argparse
import asyncio
import base64
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from measuring import Claim, finish, in_turns, ratio_of, sts_sentences
from serving_overload import served
from tain.exported.encoder import ExportedEncoder

SIZES, SHARES = (1, 8, 64), (0.5, 0.35, 0.15)
CLIENTS = 8
RETRY_S = 0.1  # a refused client asks no sooner
NEEDED_COSINE = {"float32": 0.9999, "int8": 0.99}  # an int8 graph scales its inputs by the whole batch


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

    @property
    def p50_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p99_s(self) -> float:
        return sorted(self.seconds)[int(0.99 * (len(self.seconds) - 1))]

    def figures(self) -> dict[str, float]:
        total = len(self.seconds) + self.refused
        return {
            "answered_per_s": round(len(self.seconds) / self.spent_s, 2),
            "texts_per_s": round(self.texts / self.spent_s, 1),
            "tokens_per_s": round(self.tokens / self.spent_s, 1),
            "refused_share": round(self.refused / total, 3),
            "p50_s": round(self.p50_s, 4),
            "p99_s": round(self.p99_s, 4),
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
        self._port, self._known, self._random = port, known, random.Random(0)

    def mixed(self) -> list[int]:
        """The texts of a request, by their number."""
        (size,) = self._random.choices(SIZES, SHARES)
        return [self._random.randrange(len(self._known.texts)) for _ in range(size)]

    async def one(self, connection: Connection, rows: list[int], tally: Tally) -> None:
        body = json.dumps({"input": [self._known.texts[row] for row in rows], "encoding_format": "base64"}).encode()
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
        tally.worst_cosine = min(tally.worst_cosine, float((found * self._known.vectors[rows]).sum(axis=1).min()))
        tally.tokens += int(self._known.tokens[rows].sum())
        tally.texts += len(rows)

    async def full(self, seconds: float, *, clients: int = CLIENTS) -> Tally:
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


def resident_mb(pid: int) -> float:
    """Memory of a process that is in use."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024, 1)


def mixed_texts(sentences: list[str], count: int) -> list[str]:
    """Texts of one to twelve sentences, most of them short."""
    rng = random.Random(1)
    lengths = rng.choices((1, 2, 4, 12), (0.7, 0.15, 0.1, 0.05), k=count)
    return [" ".join(rng.sample(sentences, length)) for length in lengths]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within two minutes: short loads, no results file")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data", help="folder of the evaluation data")
    parser.add_argument("--model", default="tain-mini", help="an exported encoder")
    parser.add_argument("--dtype", default="float32", choices=("float32", "int8"))
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of mixed load")
    parser.add_argument("--max-wait-s", type=float, default=2.0, help="of the server")
    chosen = parser.parse_args()
    load_s = 10.0 if chosen.quick else 60 * chosen.minutes
    encoder = ExportedEncoder.load(chosen.model, dtype=chosen.dtype)
    texts = mixed_texts(sts_sentences(chosen.data), 60 if chosen.quick else 4000)
    known = Texts(texts, np.array(encoder.count_tokens(texts)), encoder.encode(texts, normalize=True))
    claims: list[Claim] = []
    details: dict[str, object] = {"model": chosen.model, "dtype": chosen.dtype, "max_wait_s": chosen.max_wait_s, "load_s": load_s}

    def claim(name: str, value: float, unit: str, goal: float | None, spread: tuple[float, float] | None = None) -> None:
        claims.append(Claim(name, round(value, 3), unit, goal, spread or (round(value, 3), round(value, 3)), None))
        print(f"{name}: {value:.3f} {unit}", file=sys.stderr, flush=True)

    arguments = [chosen.model, "--backend", "onnx", "--dtype", chosen.dtype, "--max-wait-s", f"{chosen.max_wait_s:g}"]
    with served(*arguments) as server:
        load = Load(server.port, known)
        asyncio.run(load.full(load_s / 10))  # warm-up, and the server learns its speed
        warm_mb = resident_mb(server.pid)

        rng = random.Random(2)
        rounds = 2 if chosen.quick else 10
        for size, goal in ((8, 1.15), (32, 1.15)):
            asked = [[rng.randrange(len(texts)) for _ in range(size)] for _ in range(3 if chosen.quick else 40)]
            times = in_turns(
                {
                    "over HTTP": lambda asked=asked: load.in_a_row(asked),
                    "offline": lambda asked=asked: [encoder.encode([texts[row] for row in rows], normalize=True) for rows in asked],
                },
                repeats=rounds,
            )
            ratio, spread = ratio_of(times["over HTTP"], times["offline"])
            claim(f"requests of {size} texts over HTTP", ratio, "times the offline time", goal, spread)
        short = [[row] for row in np.argsort(known.tokens, kind="stable")[: 10 if chosen.quick else 200].tolist()]
        claim("one short text over HTTP, p50", 1000 * load.in_a_row(short).p50_s, "ms", None)

        offline: list[float] = []
        loads: list[Tally] = []
        parts = 2 if chosen.quick else 10
        for _ in range(parts):  # in turns, so that a slow minute hits both
            began_s = time.perf_counter()
            encoder.encode(texts, normalize=True)
            offline.append(float(known.tokens.sum()) / (time.perf_counter() - began_s))
            loads.append(asyncio.run(load.full(load_s / parts)))
            print(json.dumps({"offline_tokens_per_s": round(offline[-1], 1), **loads[-1].figures()}), file=sys.stderr, flush=True)
        shares = sorted(each.tokens / each.spent_s / rate for each, rate in zip(loads, offline, strict=True))
        spread = (round(shares[0], 3), round(shares[-1], 3))
        claim("throughput under mixed load", statistics.median(shares), "of the offline rate", 0.9, spread)
        capacity = statistics.median(len(each.seconds) / each.spent_s for each in loads)

        at_capacity = asyncio.run(load.steady(capacity, load_s / 10))
        over = asyncio.run(load.steady(3 * capacity, load_s / 10))
        claim("p99 of answered requests at three times the capacity", over.p99_s / at_capacity.p99_s, "of that at the capacity", 1.5)
        claim("refused at three times the capacity", over.refused / (over.refused + len(over.seconds)), "of the requests", None)
        worst = min(each.worst_cosine for each in (*loads, at_capacity, over))
        claim("worst cosine of an answer with the offline vector", worst, "", NEEDED_COSINE[chosen.dtype])
        end_mb = resident_mb(server.pid)
        claim("memory at the end", end_mb / warm_mb, "of that after the warm-up", 1.05)
    details |= {
        "mixed": [each.figures() for each in loads],
        "offline_tokens_per_s": [round(each, 1) for each in offline],
        "at_capacity": at_capacity.figures(),
        "three_times": over.figures(),
        "memory_mb": {"warm": warm_mb, "end": end_mb},
    }
    print(json.dumps(details), file=sys.stderr)
    assert worst > NEEDED_COSINE[chosen.dtype], "an answer is not the vector of its text"
    finish("serving_speed", claims, details, quick=chosen.quick)


if __name__ == "__main__":
    main()
