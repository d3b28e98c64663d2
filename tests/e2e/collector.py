"""An OpenTelemetry collector for tests: takes spans by OTLP over gRPC with the protocol's own messages, and keeps them."""
import threading
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from conftest import eventually


def plain(value):
    kind = value.WhichOneof("value")
    return [plain(v) for v in value.array_value.values] if kind == "array_value" else getattr(value, kind)


class SpanSeen:
    def __init__(self, service, span):
        self.service, self.name = service, span.name
        self.trace, self.id, self.parent = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
        self.kind = trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
        self.start, self.end = span.start_time_unix_nano, span.end_time_unix_nano
        self.error = span.status.message if span.status.code == trace_pb2.Status.STATUS_CODE_ERROR else None
        self.attributes = {a.key: plain(a.value) for a in span.attributes}
        self.events = [e.name for e in span.events]

    def __repr__(self):
        return f"{self.service}/{self.name} {self.id}<{self.parent} {self.error or ''} {self.attributes}"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.lock, self.spans, self.raw = threading.Lock(), [], b""
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Export(self, request, context):
        with self.lock:
            self.raw += request.SerializeToString()
            for group in request.resource_spans:
                service = next(a.value.string_value for a in group.resource.attributes if a.key == "service.name")
                self.spans += [SpanSeen(service, span) for scope in group.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, trace):
        with self.lock:
            return [s for s in self.spans if s.trace == trace]

    def wait_for(self, trace, check, what):
        """The trace's spans once they pass the check."""
        return eventually(lambda: (spans := self.of(trace)) and check(spans) and spans, 60, f"{what} of {trace}")

    def stop(self):
        self.server.stop(None).wait()


def children(spans, parent):
    return sorted((s for s in spans if s.parent == parent.id), key=lambda s: s.start)


def the(spans, service, name):
    found = [s for s in spans if s.service == service and s.name == name]
    assert len(found) == 1, (service, name, spans)
    return found[0]
