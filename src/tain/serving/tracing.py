"""Traces of requests by OpenTelemetry."""

from typing import Any

from fastapi import FastAPI

from tain.foundation.errors import UserError


def trace_requests(app: FastAPI, *, exporter: Any = None) -> Any:
    """Record a span per request: path, status and time, without texts and keys.

    Where spans go is set by OpenTelemetry's own variables, ``OTEL_EXPORTER_OTLP_ENDPOINT`` and others. ``OTEL_SERVICE_NAME`` defaults to
    ``tain``.

    Args:
        app: The application, before it answers its first request.
        exporter: Receives the spans; default: OTLP over HTTP.

    Returns:
        The tracer provider; its ``shutdown`` sends what is left.

    Raises:
        UserError: OpenTelemetry's packages are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # pyright: ignore[reportMissingImports]
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware  # pyright: ignore[reportMissingImports]
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # pyright: ignore[reportMissingImports]
        from opentelemetry.sdk.trace import TracerProvider  # pyright: ignore[reportMissingImports]
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "--opentelemetry needs packages that are not installed: run"
            " pip install opentelemetry-sdk opentelemetry-instrumentation-asgi opentelemetry-exporter-otlp-proto-http"
        ) from None
    named = Resource({"service.name": "tain"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=provider, exclude_spans=["receive", "send"])
    return provider
