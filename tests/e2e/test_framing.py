"""HTTP at its edges, byte by byte: what a strict server answers, and that nothing harms the next request."""
import contextlib
import json
import socket

import pytest
from commands import audit_records, by_receipt
from conftest import Cluster, eventually, held_workers
from wire import ask, call, connect, error_of, events, read_response, request

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "seed": 1}
LONG = {"prompt": "Go on", "max_tokens": 200, "ignore_eos": True, "n": 4}


def body_of(cluster, **fields):
    return json.dumps({"model": cluster.model, **BODY, **fields})


def head(cluster, line=f"POST {CHAT} HTTP/1.1", *fields):
    return "\r\n".join([line, "Host: x", f"Authorization: Bearer {cluster.key}", *fields, "", ""]).encode("latin-1")


# The header as it is sent, without its empty line, and the status.
BAD_HEADS = [
    ("GET /v1/models HTTP/1.1\nHost: x\n", 400), ("GET /v1/models HTTP/1.1\r\nHost: x\nA: b\r\n", 400), ("GET /v1/models HTTP/1.1\r\nHost: x\rA: b\r\n", 400),
    ("GET /v1/models HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n", 400), ("GET /v1/models HTTP/1.1\r\nHost: x\r\n\tA: b\r\n", 400),
    ("GET /v1/models HTTP/1.1\r\nHost: x\r\nA: \x00\r\n", 400), ("GET /v1/mo\x00dels HTTP/1.1\r\nHost: x\r\n", 400),
    ("GET /v1/models HTTP/1.1\r\nHost: x\r\nA\xe9: b\r\n", 400), ("GET /v1/models HTTP/1.1\r\nHost: x\r\nA : b\r\n", 400),
    ("GET /v1/models HTTP/1.1\r\nHost: x\r\n: b\r\n", 400), ("GET /v1/models HTTP/1.1\r\nHost: x\r\nAb\r\n", 400),
    ("GET /v1/models HTTP/1.1\r\nA: b\r\n", 400), ("GET /v1/models HTTP/1.1\r\nHost: x\r\nHost: y\r\n", 400),
    ("GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n", 400),
    ("GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\r\nx-request-id: b\r\n", 400),
    ("GET /v1/models\r\nHost: x\r\n", 400), ("GET  /v1/models HTTP/1.1\r\nHost: x\r\n", 400), ("GET /v1/ models HTTP/1.1\r\nHost: x\r\n", 400),
    ("GET v1/models HTTP/1.1\r\nHost: x\r\n", 400), ("GET ftp://x/v1/models HTTP/1.1\r\nHost: x\r\n", 400), ("GET http:///v1/models HTTP/1.1\r\nHost: x\r\n", 400),
    ("GET /v1/models%2 HTTP/1.1\r\nHost: x\r\n", 400), ("GET /v1/models%zz HTTP/1.1\r\nHost: x\r\n", 400), ("GET /v1/models%00 HTTP/1.1\r\nHost: x\r\n", 400),
    ("CONNECT x:443 HTTP/1.1\r\nHost: x\r\n", 400), ("(GET) / HTTP/1.1\r\nHost: x\r\n", 400), ("\x16\x03\x01\x02", 400),
    ("GET / HTTP/3.0\r\nHost: x\r\n", 505), ("GET / HTTP/1.2\r\nHost: x\r\n", 505), ("GET / http/1.1\r\nHost: x\r\n", 400),
    (f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
    (f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n", 400),
    (f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n", 400),
    (f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n", 400), (f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n", 400),
    (f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n", 400), (f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n", 400),
    (f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n", 400), (f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {2**64}\r\n", 400),
    (f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
    (f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n", 501), (f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n", 501),
    (f"POST {CHAT} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", 400),
    ("GET /v1/models HTTP/1.1\r\nHost: x\r\n" + "A: b\r\n" * 100, 431), ("GET /v1/models HTTP/1.1\r\nHost: x\r\nA: " + "x" * 66000 + "\r\n", 431),
    ("GET /" + "x" * 66000 + " HTTP/1.1\r\nHost: x\r\n", 431),
]


@pytest.mark.parametrize("text,status", BAD_HEADS, ids=[f"{i}-{status}" for i, (_, status) in enumerate(BAD_HEADS)])
def test_a_bad_header_is_refused_and_counted(shared, text, status):
    metrics = shared.ready["metrics"]["gateway"]

    def counted():
        return shared.metric(metrics, "choir_http_requests_total", route="other", code=status) or 0

    before = counted()
    got, headers, body = ask(shared, text.encode("latin-1") + b"\r\n")
    assert got == status, body
    assert error_of(body)["type"] == "invalid_request_error" and headers["connection"] == "close" and headers["x-request-id"]
    eventually(lambda: counted() == before + 1, 5, "the count")
    assert shared.metric(metrics, "choir_ledger_difference", ledger="requests") == 0


@pytest.mark.parametrize("line", [
    "GET http://other.example:80/v1/models HTTP/1.1", "GET HTTPS://x/v1/models?a=b HTTP/1.1", "GET /v1/mod%65ls HTTP/1.1", "GET /v1/models?%zz HTTP/1.1",
    "GET /%76%31/models HTTP/1.1", "GET /v1/models/tiny HTTP/1.1", "GET /v1/models/t%69ny HTTP/1.1", "\r\n\r\nGET /v1/models HTTP/1.1"])
def test_every_form_of_a_target_is_understood(shared, line):
    status, _, body = ask(shared, head(shared, line))
    assert status == 200 and "tiny" in body.decode()


@pytest.mark.parametrize("path,status", [("/v1/models/", 404), ("/v1//models", 404), ("/v1/../v1/models", 404), ("/V1/models", 404), ("/v1/models/org%2Fname", 404),
                                         ("/v1/models/%ff", 404), ("/", 404), ("/v1/models/tiny/x", 404)])
def test_other_paths_are_404(shared, path, status):
    got, _, body = ask(shared, head(shared, f"GET {path} HTTP/1.1"))
    assert got == status and error_of(body)


def test_values_may_be_obs_text_and_fields_may_repeat(shared):
    assert ask(shared, head(shared, "GET /v1/models HTTP/1.1", "X-Name: caf\xe9", "Accept: a", "Accept: b", "traceparent: \xff"))[0] == 200
    assert ask(shared, head(shared, f"POST {CHAT} HTTP/1.1", "traceparent: \xff\xfe", f"Content-Length: {len(body_of(shared))}") + body_of(shared).encode())[0] == 200


@pytest.mark.parametrize("line,field,status", [("GET /v1/models/t%ff%fe HTTP/1.1", "X: y", 404), ("GET /v1/models HTTP/1.1", "", 401), (f"POST {CHAT} HTTP/1.1", "", 401)])
def test_bytes_that_are_no_utf8_harm_no_other_request(shared, line, field, status):
    """They go to the router, whose stream carries every request of the gateway."""
    key = f"Authorization: Bearer {shared.key}" if field else "Authorization: Bearer ck-\xff\xfe"
    text = "\r\n".join([line, "Host: x", key, "Content-Length: 0", "", ""]).encode("latin-1")
    assert ask(shared, text)[0] == status
    assert ask(shared, head(shared, "GET /v1/models HTTP/1.1"))[0] == 200


CHUNKED = "Transfer-Encoding: chunked"


def chunks(text, size):
    data = text.encode()
    return b"".join(b"%x\r\n%s\r\n" % (len(data[i:i + size]), data[i:i + size]) for i in range(0, len(data), size))


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"0;ext=1\r\n\r\n", b"000\r\n\r\n", b"0\r\nTrailer: x\r\nOther: y\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_chunked_bodies_of_any_cut_with_trailers(shared, end, size):
    with connect(shared) as s:
        f = s.makefile("rb")
        for _ in range(2):  # and the connection goes on
            s.sendall(head(shared, f"POST {CHAT} HTTP/1.1", CHUNKED) + chunks(body_of(shared), size) + end)
            assert read_response(f)[0] == 200


@pytest.mark.parametrize("body", [b"zz\r\n", b"-1\r\nx\r\n", b"+1\r\nx\r\n", b"0x1\r\nx\r\n", b"1\r\nxy\r\n", b"1\nx\n0\n\n", b"\r\n", b" 1\r\nx\r\n", b"fffffffffffffffff\r\n",
                                  b"1;" + b"e" * 70000 + b"\r\nx\r\n", b"0\r\nTrailer\r\n\r\n"], ids=range(11))
def test_bad_chunks_are_400(shared, body):
    status, headers, text = ask(shared, head(shared, f"POST {CHAT} HTTP/1.1", CHUNKED) + body)
    assert status == 400 and error_of(text) and headers["connection"] == "close"


def test_a_chunk_over_the_limit_is_413_by_its_size_alone(shared):
    status, _, body = ask(shared, head(shared, f"POST {CHAT} HTTP/1.1", CHUNKED) + b"900000\r\n")
    assert status == 413 and error_of(body)["code"] == "request_too_large"


def test_expect_gets_its_answer_before_the_body(shared):
    text = body_of(shared).encode()
    for expect, first in (("100-continue", 100), ("100-Continue", 100)):
        with connect(shared) as s:
            f = s.makefile("rb")
            s.sendall(head(shared, f"POST {CHAT} HTTP/1.1", f"Expect: {expect}", f"Content-Length: {len(text)}"))
            assert read_response(f)[0] == first
            s.sendall(text)
            assert read_response(f)[0] == 200
    for fields, status in (([f"Content-Length: {2**30}"], 413), (["Content-Length: 5", "X-A: b"], 404)):
        line = f"POST {CHAT} HTTP/1.1" if status == 413 else "POST /nothing HTTP/1.1"
        got, headers, _ = ask(shared, head(shared, line, "Expect: 100-continue", *fields))
        assert got == status and headers["connection"] == "close"


def test_pipelined_requests_are_answered_in_order(shared):
    raws = [request(shared, CHAT, {**BODY, "max_tokens": 3}), request(shared, "/v1/models", method="GET"), request(shared, "/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 2}),
            request(shared, "/v1/completions", "{"), request(shared, CHAT, "{}", key="ck-no"), request(shared, "/v1/models/tiny", method="GET")]
    with connect(shared) as s:
        s.sendall(b"".join(raws))
        f = s.makefile("rb")
        got = [read_response(f) for _ in raws]
    assert [g[0] for g in got] == [200, 200, 200, 400, 401, 200]
    assert json.loads(got[0][2])["object"] == "chat.completion" and events(got[2][2]) and json.loads(got[5][2])["id"] == "tiny"


def test_many_pipelined_requests(shared):
    raw = request(shared, "/v1/models", method="GET")
    with connect(shared) as s:
        s.sendall(raw * 200)
        f = s.makefile("rb")
        assert all(read_response(f)[0] == 200 for _ in range(200))


def test_an_answer_that_needs_no_body_keeps_the_connection_when_the_body_is_here(shared):
    with connect(shared) as s:
        f = s.makefile("rb")
        for _ in range(2):
            s.sendall(request(shared, CHAT, BODY, key="ck-no"))
            assert read_response(f)[0] == 401


@pytest.mark.parametrize("version,field,kept", [("1.1", None, True), ("1.1", "close", False), ("1.1", "Close, x", False), ("1.1", "keep-alive", True), ("1.0", None, False),
                                                ("1.0", "keep-alive", True), ("1.0", "Keep-Alive", True), ("1.0", "close", False)])
def test_connections_are_kept_as_the_client_says(shared, version, field, kept):
    fields = [("Connection", field)] if field else []
    with connect(shared) as s:
        f = s.makefile("rb")
        s.sendall(request(shared, "/v1/models", method="GET", headers=fields, version=version))
        status, headers, _ = read_response(f)
        assert status == 200
        assert headers.get("connection") == ("close" if not kept else "keep-alive" if version == "1.0" else None)
        if kept:
            s.sendall(request(shared, "/v1/models", method="GET", version=version))
            assert read_response(f)[0] == 200
        else:
            assert f.read() == b""


def test_head_is_get_without_its_body(shared):
    for path, status in (("/v1/models", 200), ("/v1/models/tiny", 200), ("/v1/models/nope", 404), ("/nothing", 404)):
        whole = call(shared, path, method="GET")
        with connect(shared) as s:
            f = s.makefile("rb")
            s.sendall(request(shared, path, method="HEAD") + request(shared, "/v1/models", method="GET"))
            got, headers, _ = read_response(f, "HEAD")
            assert got == whole[0] == status and headers["content-length"] == whole[1]["content-length"]
            assert read_response(f)[0] == 200  # right behind the head
    assert call(shared, CHAT, method="HEAD")[0] == 405


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "FOO"])
def test_other_methods_are_405_and_cors_is_off(shared, method):
    preflight = [("Origin", "https://app.example"), ("Access-Control-Request-Method", "POST")]
    for path, allow in ((CHAT, "POST"), ("/v1/models", "GET, HEAD")):
        status, headers, body = call(shared, path, method=method, headers=preflight)
        assert status == 405 and headers["allow"] == allow and error_of(body)["code"] == "method_not_allowed"
        assert not [h for h in headers if h.startswith("access-control")]
    assert not [h for h in call(shared, "/v1/models", method="GET", headers=preflight[:1])[1] if h.startswith("access-control") or h == "vary"]


def final_response(f):
    while (got := read_response(f))[0] == 100:
        pass
    return got


def test_a_half_closed_client_gets_its_answer(shared):
    for fields in ({"max_tokens": 3}, {"max_tokens": 3, "stream": True}):
        with connect(shared) as s:
            s.sendall(request(shared, "/v1/completions", {"prompt": "x", **fields}))
            s.shutdown(socket.SHUT_WR)
            assert final_response(s.makefile("rb"))[0] == 200
    with connect(shared) as s:  # also when it takes its time
        s.sendall(request(shared, "/v1/completions", {**LONG, "n": 32}))
        s.shutdown(socket.SHUT_WR)
        got = final_response(s.makefile("rb"))
        assert got[0] == 200 and len(json.loads(got[2])["choices"]) == 32


@pytest.mark.parametrize("streaming", [False, True])
def test_a_client_that_is_gone_is_a_cancel(shared, streaming):
    gateway, router = shared.ready["metrics"]["gateway"], shared.ready["metrics"]["router"]

    def cut(url, name, **labels):
        return shared.metric(url, name, code=499, **labels) or 0

    before = cut(gateway, "choir_http_requests_total", route="/v1/completions"), cut(router, "choir_requests_total")
    with contextlib.ExitStack() as held:
        with connect(shared) as s:
            s.sendall(request(shared, "/v1/completions", {**LONG, "n": 128, "stream": streaming}))
            eventually(lambda: not shared.workers_idle(), what="a running request")
            held.enter_context(held_workers(shared))  # it cannot end before it is cut
        eventually(lambda: (cut(gateway, "choir_http_requests_total", route="/v1/completions"), cut(router, "choir_requests_total")) == (before[0] + 1, before[1] + 1),
                   what="the count of the cancel")
    eventually(shared.workers_idle, what="idle workers")
    assert shared.metric(gateway, "choir_ledger_difference", ledger="requests") == 0


def test_a_refusal_has_one_name_everywhere(shared):
    log = next((shared.state / "log").glob("router*.log"))
    for given in ("mine.1-A_b", None):
        fields = [("X-Request-Id", given)] if given else []
        status, headers, _ = call(shared, "/v1/completions", {"prompt": [999]}, headers=fields)
        assert status == 400 and (given is None or headers["x-request-id"] == given)
        eventually(lambda: any(f"request_id={headers['x-request-id']} " in line and "status=400 error=invalid_value" in line
                               for line in log.read_text().splitlines()), 30, "the router's line")


def test_every_line_of_the_gateway_has_the_answers_name(shared):
    log = shared.state / "log" / "gateway.log"
    for status, send in [(401, lambda: call(shared, "/v1/models", method="GET", key="")), (200, lambda: call(shared, "/v1/models", method="GET")),
                         (404, lambda: call(shared, "/nothing", method="GET")), (405, lambda: call(shared, "/v1/completions", method="GET")),
                         (400, lambda: call(shared, "/v1/completions", {"prompt": 1.5})),
                         (400, lambda: ask(shared, b"GET /v1/models HTTP/1.1\r\nContent-Length: x\r\n\r\n")),
                         (431, lambda: ask(shared, b"GET /v1/models HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n"))]:
        got, headers, _ = send()
        assert got == status
        eventually(lambda: any(f"request_id={headers['x-request-id']} " in line and f"status={status}" in line for line in log.read_text().splitlines()), 30,
                   f"the gateway's line of a {status}")


def test_a_name_stays_with_its_request(shared):
    named = [("X-Request-Id", "twice")]
    refused = {"prompt": [999]}
    with connect(shared) as s, held_workers(shared):
        s.sendall(request(shared, "/v1/completions", {**LONG, "stream": True}, headers=named))
        assert b"200" in s.makefile("rb").readline()  # it was accepted
        status, headers, _ = call(shared, "/v1/completions", refused, headers=named)
        assert status == 400 and headers["x-request-id"] != "twice" and headers["x-client-request-id"] == "twice"
    eventually(lambda: shared.metric(shared.ready["metrics"]["router"], "choir_requests_inflight") == 0, what="its end on record")
    # Free again when that has ended, but on record it stands for one request.
    status, headers, _ = call(shared, "/v1/completions", {"prompt": "again", "max_tokens": 1}, headers=named)
    assert status == 200 and headers["x-request-id"] == "twice" and "x-client-request-id" not in headers
    records = by_receipt(audit_records(shared.state / "audit"))
    record = records[headers["x-choir-audit"]]
    assert record["request_id"].startswith("req-") and record["client_request_id"] == "twice"
    mine = [r for r in records.values() if "twice" in (r.get("request_id"), r.get("client_request_id"))]
    assert [r["phase"] for r in mine if r["request_id"] == "twice"] == ["intent", "outcome"]
    assert len({r["request_id"] for r in mine}) == 3  # and the refusal
    assert len(audit_records(shared.state / "audit", "--request", "twice")) == len(mine) == 5
    log = next((shared.state / "log").glob("router*.log"))
    eventually(lambda: f"request_id={record['request_id']} client_request_id=twice " in log.read_text(), 30, "the router's line")


def test_the_name_in_the_answer_to_a_wrong_key_is_on_record(shared):
    log = next((shared.state / "log").glob("router*.log"))
    for given in ("wrong-key", None):
        fields = [("X-Request-Id", given)] if given else []
        for path, body, method in (("/v1/models", None, "GET"), ("/v1/completions", {"prompt": "x"}, "POST")):
            status, headers, _ = call(shared, path, body, method=method, key="ck-no", headers=fields)
            name = headers["x-request-id"]
            assert status == 401 and (given is None or name == given)
            found = by_receipt(audit_records(shared.state / "audit", "--request", name))
            record = found[headers["x-choir-audit"]]
            assert (record["phase"], record["status"], record["client_request_id"]) == ("refused", 401, name)
            line = f"request_id={record['request_id']} client_request_id={name} "
            eventually(lambda: any(line in of and "status=401" in of for of in log.read_text().splitlines()), 30, "the router's line")
    # Nobody took the name: it stands for the first request of somebody.
    status, headers, _ = call(shared, "/v1/completions", {"prompt": "x", "max_tokens": 1}, headers=[("X-Request-Id", "wrong-key")])
    found = by_receipt(audit_records(shared.state / "audit", "--request", "wrong-key"))
    assert status == 200 and found[headers["x-choir-audit"]]["request_id"] == "wrong-key"


def test_the_records_of_a_batch_are_found_by_its_name(shared):
    status, _, _ = call(shared, "/v1/completions", {"prompt": ["a", "b"], "max_tokens": 1}, headers=[("X-Request-Id", "bat")])
    assert status == 200 and call(shared, "/v1/completions", {"prompt": "a", "max_tokens": 1}, headers=[("X-Request-Id", "bat.x")])[0] == 200
    found = audit_records(shared.state / "audit", "--request", "bat")
    assert sorted((r["request_id"], r["phase"]) for r in found) == [(f"bat.{i}", phase) for i in (0, 1) for phase in ("intent", "outcome")]
    assert {r["request_id"] for r in audit_records(shared.state / "audit", "--request", "bat.1")} == {"bat.1"}


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A gateway with short times and an allowed origin."""
    c = Cluster(tmp_path_factory.mktemp("strict"), model="tiny_llama", config="gateway: {header_timeout: 1s, idle_timeout: 1s, body_timeout: 1s, "
                "cors_origins: ['https://app.example']}\n")
    yield c
    assert c.stop() == 0, c.logs()


def test_what_does_not_come_is_not_waited_for(strict):
    line = b"GET /v1/models HTTP/1.1\r\n"
    drips = [b"", b"\r\n", b"\r\n\r\n\r", b"G", line, line + b"Host: x\r\n", head(strict, f"POST {CHAT} HTTP/1.1", "Content-Length: 100") + b"{",
             head(strict, f"POST {CHAT} HTTP/1.1", CHUNKED) + b"5\r\nab"]
    with contextlib.ExitStack() as open_ones:
        sockets = [open_ones.enter_context(connect(strict)) for _ in drips]
        for s, drip in zip(sockets, drips):
            s.sendall(drip)
        assert [s.makefile("rb").read() for s in sockets] == [b""] * len(drips)
    assert call(strict, "/v1/models", method="GET")[0] == 200


def test_allowed_origins_may_read_and_others_may_not(strict):
    def names(headers):
        return {k: v for k, v in headers.items() if k.startswith("access-control")}

    asks = [("Origin", "https://app.example"), ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization, x-stainless-os")]
    status, headers, _ = call(strict, CHAT, method="OPTIONS", headers=asks, key="")
    assert status == 204 and headers["access-control-allow-origin"] == "https://app.example" and headers["vary"] == "origin"
    assert headers["access-control-allow-methods"] == "POST" and headers["access-control-allow-headers"] == "authorization, x-stainless-os"
    for got in (call(strict, CHAT, BODY, headers=asks[:1]), call(strict, CHAT, BODY, headers=asks[:1], key="ck-no"), call(strict, CHAT, {**BODY, "stream": True}, headers=asks[:1])):
        assert got[1]["access-control-allow-origin"] == "https://app.example" and "x-request-id" in got[1]["access-control-expose-headers"]
    for other in ("https://evil.example", "https://app.example.evil", "http://app.example", "null"):
        assert not names(call(strict, CHAT, BODY, headers=[("Origin", other)])[1])
        assert call(strict, CHAT, method="OPTIONS", headers=[("Origin", other), *asks[1:]], key="")[0] == 405
