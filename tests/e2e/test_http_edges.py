"""Raw bytes against the gateway: framing, limits, keep-alive, pipelining."""
import json
import os
import signal
import socket
import urllib.parse

import pytest
from conftest import Cluster, eventually, held_workers
from wire import ask, connect, error_of, read_response

BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "seed": 1}


def post(cluster, extra="", body=None, path="/v1/chat/completions", key=None):
    text = json.dumps({"model": cluster.model, **BODY}) if body is None else body
    return (f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key or cluster.key}\r\n{extra}"
            f"Content-Length: {len(text.encode())}\r\n\r\n{text}").encode()


def test_two_requests_in_one_packet_get_two_answers_in_order(cluster):
    with connect(cluster) as s:
        s.sendall(post(cluster) + f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {cluster.key}\r\n\r\n".encode())
        f = s.makefile("rb")
        first, second = read_response(f), read_response(f)
    assert first[0] == 200 and json.loads(first[2])["object"] == "chat.completion"
    assert second[0] == 200 and json.loads(second[2])["object"] == "list"


def test_a_request_cut_into_bytes_is_the_same_request(cluster):
    with connect(cluster) as s:
        for byte in post(cluster):
            s.sendall(bytes([byte]))
        assert read_response(s.makefile("rb"))[0] == 200


def test_chunked_body_and_expect_continue(cluster):
    text = json.dumps({"model": cluster.model, **BODY}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {cluster.key}\r\n"
    chunked = b"".join(f"{len(text[i:i + 9]):x}\r\n".encode() + text[i:i + 9] + b"\r\n" for i in range(0, len(text), 9)) + b"0\r\n\r\n"
    assert ask(cluster, (head + "Transfer-Encoding: chunked\r\n\r\n").encode() + chunked)[0] == 200
    with connect(cluster) as s:
        f = s.makefile("rb")
        s.sendall((head + f"Expect: 100-continue\r\nContent-Length: {len(text)}\r\n\r\n").encode())
        assert read_response(f)[0] == 100
        s.sendall(text)
        assert read_response(f)[0] == 200


def test_413_comes_before_the_body(cluster):
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {cluster.key}\r\nContent-Length: {8 * 2**20 + 1}\r\n"
    for extra in ("", "Expect: 100-continue\r\n"):
        status, headers, body = ask(cluster, (head + extra + "\r\n").encode())
        assert status == 413 and error_of(body)["code"] == "request_too_large"
        assert headers["connection"] == "close"


def test_framing_errors_are_400_and_large_headers_431(cluster):
    base = "GET /v1/models HTTP/1.1\r\nHost: x\r\n"
    for bad in ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "Content-Length: 1\r\nContent-Length: 1\r\n", "A: b\r\n c\r\n"):
        status, _, body = ask(cluster, (base + bad + "\r\n").encode())
        assert status == 400, bad
        error_of(body)
    assert ask(cluster, (base + "A: b\r\n" * 100 + "\r\n").encode())[0] == 431
    assert ask(cluster, (base + "A: " + "x" * 70000 + "\r\n\r\n").encode())[0] == 431


def test_order_of_checks(cluster):
    # path before key, method before key, key before size and body
    assert ask(cluster, b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 404
    status, headers, _ = ask(cluster, b"GET /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == 405 and headers["allow"] == "POST"
    status, headers, body = ask(cluster, b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert status == 405 and headers["allow"] == "GET, HEAD" and "GET or HEAD" in error_of(body)["message"]
    status, _, body = ask(cluster, post(cluster, body="{", key="ck-no"))
    assert status == 401 and error_of(body)["code"] == "invalid_api_key"
    assert ask(cluster, f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {2**40}\r\n\r\n".encode())[0] == 401
    assert ask(cluster, post(cluster, body="{"))[0] == 400
    # a body's own error before the unknown model
    status, _, body = ask(cluster, post(cluster, body=json.dumps({"model": "nope", "messages": [], "max_tokens": 0})))
    assert status == 400


def test_deepseek_paths_answer_422_for_parameters(cluster):
    bad = json.dumps({"model": cluster.model, **BODY, "temperature": 9})
    assert ask(cluster, post(cluster, body=bad))[0] == 400
    status, _, body = ask(cluster, post(cluster, body=bad, path="/chat/completions"))
    assert status == 422 and error_of(body)["param"] == "temperature"
    assert ask(cluster, post(cluster, body="{", path="/chat/completions"))[0] == 400
    assert ask(cluster, post(cluster, path="/chat/completions"))[0] == 200


def test_token_ids_out_of_the_vocabulary_are_the_prompts_error(cluster):
    for stream in (False, True):
        bad = json.dumps({"model": cluster.model, "prompt": [1, 2, 99999], "stream": stream})
        status, _, body = ask(cluster, post(cluster, body=bad, path="/v1/completions"))
        error = error_of(body)
        assert status == 400 and error["param"] == "prompt" and error["message"].startswith("prompt[2] is 99999"), error


def test_request_id_is_kept_or_made(cluster):
    assert ask(cluster, post(cluster, "X-Request-Id: abc.DEF-1_2\r\n"))[1]["x-request-id"]
    assert ask(cluster, post(cluster))[1]["x-request-id"]
    assert ask(cluster, post(cluster, "X-Request-Id: a b\r\n"))[0] == 400
    assert ask(cluster, post(cluster, f"X-Request-Id: {'x' * 129}\r\n"))[0] == 400


def test_requests_are_counted_and_the_ledger_balances(cluster):
    url = cluster.ready["metrics"]["gateway"]

    def count(**labels):
        return cluster.metric(url, "choir_http_requests_total", **labels)

    assert count(route="/v1/completions", code=503) == 0  # there before the first one
    before = count(route="/v1/chat/completions", code=200), count(route="other", code=404)
    assert ask(cluster, post(cluster))[0] == 200
    assert ask(cluster, get("/nothing"))[0] == 404
    eventually(lambda: (count(route="/v1/chat/completions", code=200), count(route="other", code=404)) == (before[0] + 1, before[1] + 1),
               what="counted answers")
    assert cluster.metric(url, "choir_ledger_difference", ledger="requests") == 0


def get(path, extra=""):
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode()


def test_every_answer_has_a_request_id(cluster):
    key = f"Authorization: Bearer {cluster.key}\r\n"
    large = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\n{key}Content-Length: {2**30}\r\nX-Request-Id: mine\r\n\r\n".encode()
    cases = [(200, lambda extra: get("/v1/models", key + extra)), (401, lambda extra: get("/v1/models", extra)),
             (404, lambda extra: get("/nothing", extra)), (404, lambda extra: get("/v1/models/nope", key + extra)),
             (404, lambda extra: post(cluster, extra, body=json.dumps({"model": "nope", **BODY}))),
             (405, lambda extra: get("/v1/completions", extra)), (400, lambda extra: post(cluster, extra, body="{")),
             (400, lambda extra: get("/v1/models", "Content-Length: x\r\n" + extra)),
             (431, lambda extra: get("/v1/models", "A: b\r\n" * 100 + extra)),
             (504, lambda extra: post(cluster, "X-Request-Timeout: 0.001\r\n" + extra, body=json.dumps(
                 {"model": cluster.model, **BODY, "max_tokens": 200, "ignore_eos": True})))]
    for status, raw in cases:
        ids = set()
        for _ in range(2):
            answer = ask(cluster, raw(""))
            assert answer[0] == status, answer
            ids.add(answer[1]["x-request-id"])
        assert len(ids) == 2 and all(ids)
        if status not in (400, 431):  # a framing error's header was not read to its end
            assert ask(cluster, raw("X-Request-Id: mine\r\n"))[1]["x-request-id"].startswith("mine")
    status, headers, _ = ask(cluster, large)
    assert (status, headers["x-request-id"]) == (413, "mine")


def test_a_bad_request_id_is_400_on_every_route_behind_path_and_key(cluster):
    bad = "X-Request-Id: a b\r\n"
    key = f"Authorization: Bearer {cluster.key}\r\n"
    for path in ("/v1/models", "/models", f"/v1/models/{cluster.model}", "/v1/models/nope"):
        status, headers, body = ask(cluster, get(path, key + bad))
        assert status == 400 and error_of(body)["param"] == "x-request-id", path
        assert headers["x-request-id"] != "a b"
    assert ask(cluster, get("/v1/models", bad))[0] == 401
    assert ask(cluster, get("/nothing", bad))[0] == 404


def test_http_1_0_gets_the_stream_until_close(cluster):
    text = json.dumps({"model": cluster.model, **BODY, "stream": True})
    with connect(cluster) as s:
        s.sendall(f"POST /v1/chat/completions HTTP/1.0\r\nAuthorization: Bearer {cluster.key}\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
        raw = s.makefile("rb").read()
    head, body = raw.split(b"\r\n\r\n", 1)
    assert b"transfer-encoding" not in head
    assert body.endswith(b"data: [DONE]\n\n")


def test_garbage_and_tls_hellos_do_no_harm(cluster):
    for raw in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"\x00" * 70000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        with connect(cluster) as s:
            s.sendall(raw)
            s.shutdown(socket.SHUT_WR)
            s.makefile("rb").read()
    assert ask(cluster, post(cluster))[0] == 200


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    """A cluster that keeps as little as can be for a slow reader and comments on silence soon."""
    c = Cluster(tmp_path_factory.mktemp("impatient"), config="gateway: {stream_bytes_max: 4KiB, keep_alive_interval: 100ms}\n"
                "router: {stream_bytes_max: 1MiB}\n")
    yield c
    assert c.stop() == 0, c.logs()


def stream_of(cluster, **fields):
    body = {"model": cluster.model, "prompt": "hi", "seed": 1, "stream": True, "ignore_eos": True, **fields}
    return post(cluster, "Connection: close\r\n", body=json.dumps(body), path="/v1/completions")


def read_to_end(s):
    rest = []
    try:
        while (some := s.recv(1 << 20)):
            rest.append(some)
    except ConnectionResetError:
        pass
    return b"".join(rest)


def test_a_reader_that_never_reads_is_cut_off_and_others_are_served(impatient):
    gateway = impatient.ready["metrics"]["gateway"]
    each = {"max_tokens": 240, "logprobs": 20}

    def cut_off():
        return impatient.metric(gateway, "choir_http_requests_total", route="/v1/completions", code=499)

    with connect(impatient) as s:  # whoever reads gets all, though the window is smaller than a step's tokens
        s.sendall(stream_of(impatient, n=16, **each))
        assert read_to_end(s).count(b"data: [DONE]") == 1
    assert cut_off() == 0

    u = urllib.parse.urlparse(impatient.url)
    memory = impatient.metric(gateway, "process_resident_memory_bytes")
    with socket.socket() as s:
        s.settimeout(20)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect((u.hostname, u.port))
        s.sendall(stream_of(impatient, n=64, **each))  # more than the kernel's buffers hold
        eventually(lambda: impatient.metric(gateway, "choir_http_open_streams") == 1 or cut_off(), what="an open stream")
        assert ask(impatient, post(impatient))[0] == 200  # while the other one is stuck
        eventually(lambda: cut_off() == 1, what="the slow reader's end")
        eventually(impatient.workers_idle, what="idle workers")
        assert impatient.metric(gateway, "choir_ledger_difference", ledger="requests") == 0
        # The answer would be some 25 MB; what the gateway kept of it is the window and one write.
        assert impatient.metric(gateway, "process_resident_memory_bytes") - memory < 8 << 20
        rest = read_to_end(s)
    assert b"[DONE]" not in rest


def test_a_reader_in_small_bites_gets_all(impatient):
    with socket.socket() as s:
        s.settimeout(20)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        u = urllib.parse.urlparse(impatient.url)
        s.connect((u.hostname, u.port))
        s.sendall(stream_of(impatient, n=8, max_tokens=100, logprobs=5))
        bites = []
        while (bite := s.recv(512)):
            bites.append(bite)
    assert b"".join(bites).count(b"data: [DONE]") == 1


def test_a_silent_stream_gets_comments(impatient):
    with held_workers(impatient) as release, connect(impatient) as s:
        s.sendall(stream_of(impatient, max_tokens=5))
        f = s.makefile("rb")
        while not (line := f.readline()).startswith(b": keep-alive"):
            assert line and not line.startswith(b"data: "), line
        release()
        assert b"data: [DONE]" in f.read()
    eventually(impatient.workers_idle, what="idle workers")


def test_a_half_closed_client_is_asked_whether_it_is_there(impatient):
    body = json.dumps({"model": impatient.model, "prompt": "hi", "max_tokens": 3})

    def cancelled():
        return impatient.metric(impatient.ready["metrics"]["router"], "choir_requests_total", code=499) or 0

    before = cancelled()
    with held_workers(impatient) as release, connect(impatient) as waits, connect(impatient) as goes:
        for s in (waits, goes):
            s.sendall(post(impatient, path="/v1/completions", body=body))
        waits.shutdown(socket.SHUT_WR)
        goes.close()
        f = waits.makefile("rb")
        assert read_response(f)[0] == 100
        eventually(lambda: cancelled() == before + 1, what="the cancel of the other")
        release()
        while (got := read_response(f))[0] == 100:
            pass
        assert got[0] == 200 and f.read() == b""
    eventually(impatient.workers_idle, what="idle workers")


def test_a_router_that_dies_takes_no_byte_and_no_room_along(impatient):
    """The window is far smaller than the stream, so a miscounted byte would stop it or let it run over."""
    def answer(kill):
        texts, tokens = {}, {}
        with connect(impatient) as s:
            s.sendall(stream_of(impatient, n=4, max_tokens=200, logprobs=10, temperature=1.2))
            f = s.makefile("rb")
            for i, line in enumerate(f):
                if i == 40 and kill:
                    os.kill(impatient.ready["pids"]["router"], signal.SIGKILL)
                if line.startswith(b"data: {"):
                    for c in json.loads(line[6:])["choices"]:
                        texts[c["index"]] = texts.get(c["index"], "") + c["text"]
                        tokens[c["index"]] = tokens.get(c["index"], []) + (c["logprobs"] or {}).get("token_logprobs", [])
                if line == b"data: [DONE]\n":
                    return texts, tokens

    undisturbed = answer(False)
    assert all(len(t) == 200 for t in undisturbed[1].values())
    pid = impatient.ready["pids"]["router"]
    assert answer(True) == undisturbed
    eventually(lambda: impatient.ready["pids"]["router"] not in (pid, None), what="a new router in the ready file")
    eventually(impatient.workers_idle, what="idle workers")
