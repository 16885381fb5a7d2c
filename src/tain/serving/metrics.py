"""Figures of a running server in the format of Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class Metrics:
    """Counters and histograms of one server.

    Args:
        waiting_s: Gives the seconds of work that wait.
        held_bytes: Gives the bytes of request bodies in memory.
    """

    def __init__(self, *, waiting_s: Callable[[], float], held_bytes: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        of_batch = {"labelnames": ("model", "use"), "registry": registry}
        self._requests = Counter("tain_requests", "Answered requests", ("path", "status"), registry=registry)
        self._request_s = Histogram(
            "tain_request_seconds", "Seconds from the headers of a request to its answer", ("path",), buckets=_SECONDS, registry=registry
        )
        self._refusals = Counter("tain_refusals", "Requests answered with an error, by reason", ("reason",), registry=registry)
        self._texts = Counter("tain_texts", "Texts of answered requests; for rerank, documents", **of_batch)
        self._tokens = Counter("tain_tokens", "Tokens read, of answered requests", **of_batch)
        self._truncated = Counter("tain_truncated_texts", "Texts that were longer than the model reads", **of_batch)
        self._queue_s = Histogram("tain_queue_seconds", "Seconds that a request waited for its first batch", buckets=_SECONDS, **of_batch)
        self._tokenizing_s = Histogram("tain_tokenizing_seconds", "Seconds to count a batch's tokens", buckets=_SECONDS, **of_batch)
        self._inference_s = Histogram("tain_inference_seconds", "Seconds to compute a batch", buckets=_SECONDS, **of_batch)
        self._batch_texts = Histogram("tain_batch_texts", "Texts in a batch", buckets=_TEXTS, **of_batch)
        Gauge("tain_waiting_seconds", "Seconds of work that wait, estimated", registry=registry).set_function(waiting_s)
        Gauge("tain_body_bytes", "Bytes of request bodies in memory", registry=registry).set_function(held_bytes)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(path, str(status)).inc()
        self._request_s.labels(path).observe(seconds)

    def refusal(self, reason: str) -> None:
        """Count a refused request."""
        self._refusals.labels(reason).inc()

    def computed(self, model: str, use: str, *, texts: int, tokens: int, truncated: int, waited_s: float) -> None:
        """Count what a request asked for, once it is computed."""
        self._texts.labels(model, use).inc(texts)
        self._tokens.labels(model, use).inc(tokens)
        self._queue_s.labels(model, use).observe(waited_s)
        if truncated:
            self._truncated.labels(model, use).inc(truncated)

    def batch(self, model: str, use: str, *, texts: int, seconds: float, tokenizing_s: float) -> None:
        """Record a batch; called in a computing thread."""
        self._batch_texts.labels(model, use).observe(texts)
        self._tokenizing_s.labels(model, use).observe(tokenizing_s)
        self._inference_s.labels(model, use).observe(max(0.0, seconds - tokenizing_s))

    def text(self) -> bytes:
        """All figures, as Prometheus reads them."""
        return generate_latest(self._registry)
