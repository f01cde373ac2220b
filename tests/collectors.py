"""Receivers on this machine for what a process reports: an OTLP collector, and a Sentry.

Both speak the real protocols, so that the real SDKs send to them over a socket.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Collector:
    """Takes whatever is posted to it."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, bytes]] = []  # path and body, in plain
        received = self.posts

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                received.append((self.path, body))
                traces = self.path == "/v1/traces"
                answer = ExportTraceServiceResponse().SerializeToString() if traces else b"{}"
                self.send_response(200)
                kind = "application/x-protobuf" if traces else "application/json"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def dsn(self) -> str:
        return f"http://0123456789abcdef0123456789abcdef@127.0.0.1:{self._server.server_port}/42"

    @property
    def everything(self) -> bytes:
        return b"\n".join(body for _, body in self.posts)

    def spans(self) -> list[dict[str, object]]:
        """Every span that came, decoded, with its attributes as a dictionary."""
        found = []
        for path, body in list(self.posts):
            if path != "/v1/traces":
                continue
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = {
                    each.key: each.value.string_value for each in resource.resource.attributes
                }
                found += [
                    {
                        "name": span.name,
                        "kind": span.kind,
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "failed": span.status.code == 2,
                        "links": [link.span_id.hex() for link in span.links],
                        "service": service["service.name"],
                        **{
                            each.key: each.value.string_value or each.value.int_value
                            for each in span.attributes
                        },
                    }
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
        return found

    def events(self) -> list[dict[str, object]]:
        """Every Sentry event that came, out of its envelope."""
        found = []
        for path, body in list(self.posts):
            if path != "/api/42/envelope/":
                continue
            lines = body.split(b"\n")
            for head, item in zip(lines[1::2], lines[2::2], strict=False):
                if json.loads(head)["type"] == "event":
                    found.append(json.loads(item))
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    try:
        yield collector
    finally:
        collector.close()
