"""Traces of real requests across gateway, router and workers, as a collector gets them."""
import json
import os
import secrets
import signal
import urllib.error
import urllib.request

import grpc
import pytest
from collector import Collector, children, the
from conftest import Cluster, eventually
from test_grpc import pb  # noqa: F401  a fixture

PROMPT = "words that no span may carry"


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """A cluster of two groups that records what it is asked to, and where the spans arrive."""
    collector = Collector()
    cluster = Cluster(tmp_path_factory.mktemp("traced"), groups=2, ranks=1,
                      extra=("--trace-endpoint", collector.address, "--trace-ratio", 0, "--log-format", "json", "--log-level", "debug"))
    yield cluster, collector
    code = cluster.stop()
    collector.stop()
    assert code == 0, cluster.logs()


def asked(sampled=True):
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-0{int(sampled)}"


def stream(cluster, parent, max_tokens=8, on_chunk=None, **more):
    """The request id and the number of chunks of a streamed answer."""
    body = {"model": cluster.model, "messages": [{"role": "user", "content": f"{PROMPT} {parent[3:9]}"}], "max_tokens": max_tokens, "ignore_eos": True,
            "stream": True} | more
    request = urllib.request.Request(cluster.url + "/v1/chat/completions", json.dumps(body).encode(),
                                     {"authorization": f"Bearer {cluster.key}", "content-type": "application/json", "traceparent": parent})
    chunks = 0
    with urllib.request.urlopen(request, timeout=60) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                chunks += 1
                if on_chunk:
                    on_chunk(chunks)
        return answer.headers["x-request-id"], chunks


def complete(spans):
    return {s.service for s in spans} >= {"choir-gateway", "choir-router", "choir-worker"} and \
        any(s.name.startswith("chat ") for s in spans)


def test_a_streamed_request_is_one_tree_over_three_processes(traced):
    cluster, collector = traced
    parent = asked()
    _, trace, caller, _ = parent.split("-")
    request_id, _ = stream(cluster, parent)
    spans = collector.wait_for(trace, complete, "all spans")
    top = the(spans, "choir-gateway", "POST /v1/chat/completions")
    assert top.parent == caller and top.kind == "SERVER"
    assert top.attributes["http.response.status_code"] == 200 and top.attributes["http.route"] == "/v1/chat/completions"
    chat = the(spans, "choir-router", f"chat {cluster.model}")
    assert chat.parent == top.id and chat.error is None
    assert chat.attributes["gen_ai.operation.name"] == "chat"
    assert chat.attributes["gen_ai.request.model"] == cluster.model
    assert chat.attributes["gen_ai.request.max_tokens"] == 8
    assert chat.attributes["gen_ai.usage.output_tokens"] == 8
    assert chat.attributes["gen_ai.usage.input_tokens"] > 0
    assert chat.attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert 0 < chat.attributes["gen_ai.server.time_to_first_token"] < (chat.end - chat.start) / 1e9
    assert chat.attributes["choir.request_id"] == request_id
    parts = children(spans, chat)
    assert [s.name for s in parts] == ["admit", "sequence"]
    placed = parts[1]
    assert placed.kind == "CLIENT" and placed.attributes["choir.end"] == "ended"
    [computed] = children(spans, placed)
    assert computed.service == "choir-worker" and computed.attributes["choir.worker"] == placed.attributes["choir.worker"]
    assert computed.attributes["gen_ai.usage.output_tokens"] == 8 and computed.events == ["first token"]
    assert len(spans) == 5
    for span in spans:
        above = next((s for s in spans if s.id == span.parent), None)
        assert span.start <= span.end
        assert above is None or above.start <= span.start + 5_000_000  # clocks of processes are read apart


def stream_over_a_kill(cluster, collector, tokens):
    """The spans of a stream whose worker was killed under it; asks again when the answer was faster than the kill."""
    def kill_the_busy_one(chunks):
        if chunks == 3:
            for i, url in enumerate(cluster.ready["metrics"]["workers"]):
                if cluster.metric(url, "choir_requests_running"):
                    os.kill(cluster.ready["pids"]["workers"][i], signal.SIGKILL)

    for _ in range(20):
        parent = asked()
        stream(cluster, parent, max_tokens=tokens, on_chunk=kill_the_busy_one)
        spans = collector.wait_for(parent.split("-")[1], complete, "all spans")
        eventually(lambda: len(cluster.ready["pids"]["workers"]) == 2 and cluster.workers_idle(), 120, "both groups to be there")
        if the(spans, "choir-router", f"chat {cluster.model}").attributes["choir.replays"]:
            return spans
    raise AssertionError("no stream outlasted its worker")


def test_a_killed_worker_shows_in_the_tree(traced):
    cluster, collector = traced
    tokens = 160
    spans = stream_over_a_kill(cluster, collector, tokens)
    chat = the(spans, "choir-router", f"chat {cluster.model}")
    assert chat.attributes["gen_ai.usage.output_tokens"] == tokens and chat.attributes["choir.replays"] == 1
    first, second = [s for s in children(spans, chat) if s.name == "sequence"]
    assert first.error == "worker_lost" and second.error is None
    assert first.attributes["choir.worker"] != second.attributes["choir.worker"]
    assert children(spans, first) == []  # it died with its worker
    [computed] = children(spans, second)
    replayed = computed.attributes["choir.replayed_tokens"]
    assert replayed == second.attributes["choir.replayed_tokens"] >= 1
    assert replayed + computed.attributes["gen_ai.usage.output_tokens"] == tokens


def test_what_was_not_asked_for_is_not_recorded(traced):
    cluster, collector = traced
    unasked, wanted = asked(sampled=False), asked()
    request_id, _ = stream(cluster, unasked)
    stream(cluster, wanted)
    collector.wait_for(wanted.split("-")[1], complete, "all spans")
    assert collector.of(unasked.split("-")[1]) == []
    # It is named in the log and in the audit record all the same.
    assert unasked.split("-")[1] in {line.get("trace_id") for line in lines_of(cluster, "router") if line.get("request_id") == request_id}
    audit = "".join(p.read_text() for p in (cluster.state / "audit").rglob("*") if p.is_file())
    assert unasked.split("-")[1] in audit


def lines_of(cluster, process):
    """The log's lines, which all must be JSON."""
    text = "".join(p.read_text() for p in (cluster.state / "log").glob(f"{process}*.log"))
    return [json.loads(line) for line in text.splitlines()]


def test_every_part_logs_the_request_with_its_ids_and_without_content(traced):
    cluster, _ = traced
    parent = asked(sampled=False)
    request_id, _ = stream(cluster, parent)
    for process, message in (("gateway", "request"), ("router", "request"), ("worker", "sequence")):
        def found():
            return [line for line in lines_of(cluster, process) if line["message"] == message and line.get("request_id") == request_id]
        eventually(found, 30, f"the {process}'s line")
        [line] = found()
        assert line["trace_id"] == parent.split("-")[1] and line["duration_ms"] > 0
    router = next(line for line in lines_of(cluster, "router") if line.get("request_id") == request_id and line["message"] == "request")
    assert (router["status"], router["finish"], router["output_tokens"]) == (200, "length", 8)
    assert router["tenant"] and router["workers"].startswith("g")
    assert PROMPT not in "".join(p.read_text() for p in (cluster.state / "log").glob("*.log"))


def test_grpc_metadata_carries_the_trace(traced, pb):
    cluster, collector = traced
    messages, services = pb
    parent = asked()
    with grpc.insecure_channel(cluster.ready["router"]) as channel:
        stub = services.InferenceStub(channel)
        request = messages.GenerateRequest(model=cluster.model, prompt=PROMPT, sampling=messages.Sampling(max_tokens=4))
        list(stub.Generate(request, metadata=(("authorization", f"Bearer {cluster.key}"), ("traceparent", parent)), timeout=60))
    spans = collector.wait_for(parent.split("-")[1], lambda s: len(s) >= 4, "router and worker")
    top = the(spans, "choir-router", f"text_completion {cluster.model}")
    assert top.parent == parent.split("-")[2]


def test_an_unreadable_trace_begins_a_new_one_and_errors_are_marked(traced):
    cluster, collector = traced
    parent = asked()
    request = urllib.request.Request(cluster.url + "/v1/chat/completions", b"{}",
                                     {"authorization": f"Bearer {cluster.key}", "traceparent": parent})
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=60)
    spans = collector.wait_for(parent.split("-")[1], lambda s: len(s) >= 1, "the gateway's")
    assert [s.attributes["http.response.status_code"] for s in spans] == [400]
    request_id, _ = stream(cluster, "not a traceparent")

    def named():
        return [line for line in lines_of(cluster, "router") if line.get("request_id") == request_id and len(line.get("trace_id", "")) == 32]
    eventually(named, 30, "a trace id")


def test_no_span_carries_content(traced):
    _, collector = traced
    assert len(collector.raw) > 1000 and PROMPT.encode() not in collector.raw


def test_a_collector_that_is_gone_costs_spans_and_nothing_else(tmp_path):
    collector = Collector()
    cluster = Cluster(tmp_path, ranks=1, extra=("--trace-endpoint", collector.address, "--trace-ratio", 1))
    try:
        stream(cluster, asked())
        collector.stop()
        for _ in range(5):
            stream(cluster, asked())
        url = cluster.ready["metrics"]["router"]
        eventually(lambda: cluster.metric(url, "choir_trace_spans_total", outcome="dropped") > 0, 60, "dropped spans")
    finally:
        assert cluster.stop() == 0, cluster.logs()


def test_nothing_is_recorded_unless_it_is_asked_for(shared):
    assert shared.metric(shared.ready["metrics"]["router"], "choir_trace_spans_total") is None
