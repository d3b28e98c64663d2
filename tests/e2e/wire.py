"""HTTP/1.1 by hand, for tests that look at bytes: what is sent is exactly what is given."""
import json
import socket
import urllib.parse


def connect(cluster):
    u = urllib.parse.urlparse(cluster.url)
    return socket.create_connection((u.hostname, u.port), timeout=60)


def request(cluster, path, body=None, method="POST", headers=(), key=None, version="1.1"):
    """The bytes of one request; a dict body gets the model's name and is sent as JSON. `headers` are pairs."""
    if isinstance(body, dict):
        body = json.dumps({"model": cluster.model, **body})
    payload = body.encode() if isinstance(body, str) else body
    lines = [f"{method} {path} HTTP/{version}", "Host: x"]
    if key != "":
        lines.append(f"Authorization: Bearer {key or cluster.key}")
    lines += [f"{name}: {value}" for name, value in headers]
    if payload is not None:
        lines.append(f"Content-Length: {len(payload)}")
    return "\r\n".join(lines + ["", ""]).encode("latin-1") + (payload or b"")


def read_response(f, method="POST"):
    """(status, headers, body) of one response; interim ones too. `f` is the socket's file."""
    line = f.readline()
    assert line, "the connection was closed without an answer"
    status, headers = int(line.split()[1]), {}
    while (line := f.readline().strip()):
        name, value = line.decode().split(":", 1)
        headers[name.lower()] = value.strip()
    if status in (100, 204) or method == "HEAD":
        return status, headers, b""
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while (size := int(f.readline(), 16)):
            body += f.read(size)
            f.readline()
        f.readline()
        return status, headers, body
    if "content-length" not in headers:
        return status, headers, f.read()
    return status, headers, f.read(int(headers["content-length"]))


def ask(cluster, raw, method="POST"):
    with connect(cluster) as s:
        s.sendall(raw)
        return read_response(s.makefile("rb"), method)


def call(cluster, path, body=None, **kwargs):
    return ask(cluster, request(cluster, path, body, **kwargs), kwargs.get("method", "POST"))


def chat(cluster, status=200, path="/v1/chat/completions", **fields):
    fields.setdefault("messages", [{"role": "user", "content": "hi"}])
    fields.setdefault("max_tokens", 8)
    got, _, body = call(cluster, path, fields)
    assert got == status, body
    return json.loads(body)


def complete(cluster, status=200, path="/v1/completions", **fields):
    fields.setdefault("prompt", "Once upon a time")
    fields.setdefault("max_tokens", 8)
    fields.setdefault("ignore_eos", True)
    got, _, body = call(cluster, path, fields)
    assert got == status, body
    return json.loads(body)


def events(body):
    """The objects of a stream's `data:` lines; it must end in [DONE]."""
    lines = [line for line in body.decode().split("\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]", body[-200:]
    return [json.loads(e[6:]) for e in lines[:-1]]


def stream(cluster, path="/v1/completions", **fields):
    base = {"prompt": "Once upon a time"} if "messages" not in fields else {}
    status, headers, body = call(cluster, path, {**base, "max_tokens": 8, "ignore_eos": True, **fields, "stream": True})
    assert status == 200 and headers["content-type"].startswith("text/event-stream"), body
    return events(body)


def error_of(body):
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert error["message"] and error["type"] and error["code"]
    return error
