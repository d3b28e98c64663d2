"""Nothing is reachable without a key but health: every route of the gateway and every method of the router is tried."""
import importlib
import queue
import sys
import urllib.request

import grpc
import pytest
from conftest import ROOT
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc
from wire import ask, call, error_of, request

WRONG = ["", "x", "ck-", "ck-" + "A" * 43, "ey.ey.ey"]
OPEN = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"}


def routes(cluster):
    """As the gateway itself counts them."""
    found = set()
    for line in urllib.request.urlopen(cluster.ready["metrics"]["gateway"], timeout=10).read().decode().splitlines():
        if line.startswith("choir_http_requests_total{"):
            found.add(line.split('route="')[1].split('"')[0])
    return found - {"other"}


def test_every_route_asks_for_a_key(shared):
    call(shared, "/v1/models", method="GET")
    known = routes(shared)
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{id}", "/v1/choir/status", "/chat/completions", "/beta/completions", "/models"} <= known
    for route in sorted(known):
        path = route.replace("{id}", shared.model)
        method = "GET" if call(shared, path, method="GET", key="")[0] != 405 else "POST"
        for key in WRONG:
            # Without a body, with one, and with one that is too large: the key is looked at before.
            for headers in ((), (("Content-Length", "5"),), (("Content-Length", str(2**40)),)) if method == "POST" else ((),):
                status, got, body = ask(shared, request(shared, path, method=method, key=key, headers=headers), method)
                assert (status, error_of(body)["code"]) == (401, "invalid_api_key"), (route, key, headers)
                assert shared.model not in body.decode() and "tenant" not in body.decode()
        for other in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"):
            status = ask(shared, request(shared, path, method=other, key=""), other)[0]
            assert status in (401, 405, 501), (route, other, status)
    for path in ("/v1/messages", "/v1/embeddings", "/metrics", "/statusz", "/healthz", "/admin", "/v1/", "/", "/v1/models/../choir/status", "/v1//models"):
        assert ask(shared, request(shared, path, method="GET", key=""), "GET")[0] in (401, 404), path


def test_refusals_for_the_key_are_on_record_and_counted(shared):
    metrics = shared.ready["metrics"]["router"]
    before = shared.metric(metrics, "choir_rejected_total", reason="invalid_api_key")
    status, headers, _ = call(shared, "/v1/models", method="GET", key="ck-" + "B" * 43)
    assert status == 401 and ":" in headers["x-choir-audit"]
    assert shared.metric(metrics, "choir_rejected_total", reason="invalid_api_key") == before + 1


def test_every_method_of_the_router_asks_for_a_key(shared):
    with grpc.insecure_channel(shared.ready["router"]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = descriptor_pool.DescriptorPool(database)
        services = set(database.get_services())
        assert {"choir.v1.Inference", "choir.v1.Edge", "grpc.health.v1.Health"} <= services
        tried = 0
        for name in sorted(services - OPEN - {"choir.v1.Edge"}):
            for method in pool.FindServiceByName(name).methods:
                for key in (None, *WRONG):
                    metadata = [] if key is None else [("authorization", f"Bearer {key}")]
                    make = channel.unary_stream if method.server_streaming else channel.unary_unary
                    with pytest.raises(grpc.RpcError) as e:
                        list(make(f"/{name}/{method.name}")(b"", metadata=metadata, timeout=30))
                    assert e.value.code() == grpc.StatusCode.UNAUTHENTICATED, (name, method.name, key)
                    tried += 1
        assert tried >= 3 * (1 + len(WRONG))
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_the_edge_judges_each_request_by_its_own_key(shared, tmp_path):
    """A gateway's stream is no key: what it carries is judged one by one."""
    out = tmp_path / "pb"
    out.mkdir()
    assert protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}", "choir/v1/edge.proto", "choir/v1/inference.proto"]) == 0
    sys.path.insert(0, str(out))
    edge = importlib.import_module("choir.v1.edge_pb2")
    hello = edge.EdgeUp(hello=edge.EdgeHello(protocol_version=1, gateway="test"))
    with grpc.insecure_channel(shared.ready["router"]) as channel:
        connect = channel.stream_stream("/choir.v1.Edge/Connect", request_serializer=lambda m: m.SerializeToString(), response_deserializer=edge.EdgeDown.FromString)
        for key in WRONG:
            up = edge.EdgeUp(hello=hello.hello)
            up.auths.add(id=1, bearer=key.encode(), want_status=True, check_rights=True)
            up.opens.add(id=2, bearer=key.encode(), route="/v1/completions").generate.model = shared.model
            refused = set()
            waiting = queue.Queue()
            waiting.put(up)
            stream = connect(iter(waiting.get, None), timeout=30)
            for down in stream:
                refused |= {("auth", a.error.http, a.status_json, a.tenant) for a in down.auths} | {("open", e.error.http, "", "") for e in down.events}
                if len(refused) == 2:
                    break
            stream.cancel()
            waiting.put(None)
            assert refused == {("auth", 401, "", ""), ("open", 401, "", "")}, key
