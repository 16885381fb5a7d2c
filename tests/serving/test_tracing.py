"""Traces of requests by OpenTelemetry."""

import sys

import pytest

from tain.cli.main import main
from tain.foundation.errors import UserError
from tain.serving.app import build_app
from tain.serving.served import load_served
from tain.serving.tracing import trace_requests


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.asgi", None)
    with pytest.raises(UserError, match="pip install opentelemetry-sdk opentelemetry-instrumentation-asgi"):
        trace_requests(build_app([]))


def test_the_flag_needs_the_packages_before_it_serves(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.asgi", None)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "tain-mini", "--port", "0", "--opentelemetry"])
    assert ended.value.code == 2
    assert "--opentelemetry needs packages" in capsys.readouterr().err


def test_a_request_is_a_span_without_its_text(bert_folder):
    pytest.importorskip("opentelemetry.instrumentation.asgi", reason="OpenTelemetry is not installed")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from starlette.testclient import TestClient

    seen = InMemorySpanExporter()
    app = build_app([load_served("encoder", str(bert_folder), device="cpu", dtype="float32", trust_remote_code=False)])
    provider = trace_requests(app, exporter=seen)
    with TestClient(app) as client:
        assert client.post("/v1/embeddings", json={"input": "a secret text"}).status_code == 200
        assert client.get("/nowhere").status_code == 404
    provider.shutdown()
    spans = seen.get_finished_spans()
    assert len(spans) == 2
    assert {span.resource.attributes["service.name"] for span in spans} == {"tain"}
    written = "".join(span.to_json() for span in spans)
    assert "/v1/embeddings" in written and "404" in written
    assert "secret" not in written
