"""Two routers: one is killed, or hangs, while streams run, and they go on at the other one with the same bytes, on record
there; one cannot write its audit log, and new requests go to the other one; a gateway is killed, and its streams are found
at whichever router has them."""
import json
import os
import pathlib
import resource
import shutil
import signal
import threading

import pytest
from commands import audit, audit_records, by_receipt
from conftest import Cluster, admin_page, eventually, is_ready
from kill_streams import of_routers, victim
from streams import KINDS, Answer, Gateway, ask, ask_all, long_model, outlive
from test_audit import ask as ask_whole

PARAMS = {"prompt": "Tell me a long story", "max_tokens": 1500, "temperature": 1.2, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("routers")
    c = Cluster(tmp, model=long_model(tmp), extra=("--routers", 2))
    yield c
    c.stop()


def run(cluster, seed, on_chunk=lambda i: None, **extra):
    stream = cluster.openai().completions.create(model=cluster.model, stream=True, seed=seed, **{**PARAMS, **extra})
    choices = {}
    for i, chunk in enumerate(stream):
        choice = choices.setdefault(chunk.choices[0].index, {"text": "", "logprobs": [], "finish": None})
        choice["text"] += chunk.choices[0].text
        choice["logprobs"] += chunk.choices[0].logprobs.token_logprobs if chunk.choices[0].logprobs else []
        choice["finish"] = chunk.choices[0].finish_reason or choice["finish"]
        on_chunk(i)
    return choices


def test_the_ready_file_lists_both(cluster):
    ready = cluster.ready
    assert len(set(ready["routers"])) == len(set(ready["metrics"]["routers"])) == len(set(ready["pids"]["routers"])) == 2
    assert ready["router"] == ready["routers"][0] and ready["pids"]["router"] == ready["pids"]["routers"][0]


def test_streams_go_on_at_the_other_router_and_both_logs_tell(cluster):
    kinds = [{"seed": 1}, {"seed": 2, "n": 3}, {"seed": 3, "logprobs": 2}, {"seed": 4, "stop": ["qqqq"]}, {"seed": 5}, {"seed": 6}]
    undisturbed = [run(cluster, **kind) for kind in kinds]
    ready = cluster.ready
    # The gateway is at one of the two: the one that has the requests.
    used = max((0, 1), key=lambda r: cluster.metric(ready["metrics"]["routers"][r], "choir_audit_records_total", phase="intent"))
    pid = ready["pids"]["routers"][used]
    everyone_runs = threading.Barrier(len(kinds), action=lambda: os.kill(pid, signal.SIGKILL))
    results = [None] * len(kinds)

    def client(k):
        results[k] = run(cluster, on_chunk=lambda i: i == 5 and everyone_runs.wait(60), **kinds[k])

    threads = [threading.Thread(target=client, args=(k,)) for k in range(len(kinds))]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    assert results == undisturbed
    other = cluster.ready["metrics"]["routers"][1 - used]
    resumed = cluster.metric(other, "choir_resumed_streams_total")
    assert cluster.metric(other, "choir_ledger_difference") == 0
    eventually(lambda: cluster.ready["pids"]["routers"][used] not in (pid, None), what="the killed router's successor")
    eventually(cluster.workers_idle, what="idle workers")
    assert cluster.stop() == 0, cluster.logs()

    logs = [cluster.state / "audit" / f"router-{r}" for r in (used, 1 - used)]
    dead, alive = [audit_records(log) for log in logs]
    gap = [r for r in dead if r["phase"] == "gap"]
    intents = by_receipt(r for r in dead if r["phase"] == "intent")
    went_on = [r for r in alive if r["phase"] == "intent"]
    # What was on record as done when the router was killed may have gone on all the same: nobody had heard of its end.
    assert len(gap) == 1 and 0 < len(gap[0]["open"]) <= len(went_on) == resumed
    assert set(gap[0]["open"]) <= {r["client_request_id"] for r in went_on}
    for record in went_on:
        first = intents[record["continues"]]
        assert first["request_id"] == record["client_request_id"] != record["request_id"] and first["params"] == record["params"]
    verdict = audit("verify", cluster.state / "audit", "--json")
    told = {v["log"]: v for v in map(json.loads, verdict.stdout.splitlines())}
    assert verdict.returncode == 0 and len(told) == 2
    assert [c["continues"] for c in told[alive[0]["log"]]["continuations"]] == [r["continues"] for r in went_on]
    shown = audit("show", cluster.state / "audit", "--request", went_on[0]["client_request_id"])
    assert [json.loads(line)["phase"] for line in shown.stdout.splitlines()].count("intent") == 2

    # One log alone may go on with one that is kept elsewhere, unless that is said to be there; where all are, none may be missing or come twice.
    both, gone, alone = cluster.state / "audit", dead[0]["log"], audit("verify", logs[1])
    assert alone.returncode == 0 and f"{went_on[0]['continues']}, which is not here" in alone.stdout
    missing = audit("verify", logs[1], "--log", gone)
    assert missing.returncode == 1 and f"{gone} is not here" in missing.stdout
    assert audit("verify", both, "--log", gone, "--log", alive[0]["log"]).returncode == 0
    shutil.copytree(logs[1], both / "router-2")
    twice = audit("verify", both)
    assert twice.returncode == 1 and "the same log as" in twice.stdout
    shutil.rmtree(both / "router-2")
    for path in logs[0].iterdir():
        path.unlink()
    for emptied in (True, False):
        if not emptied:
            logs[0].rmdir()
        lost = audit("verify", both)
        assert lost.returncode == 1, lost.stdout
        assert f"record {went_on[0]['seq']}: it continues {went_on[0]['continues']}, and that log is not here" in lost.stdout


@pytest.fixture
def pair(tmp_path):
    c = Cluster(tmp_path, model=long_model(tmp_path), extra=("--routers", 2))
    yield c
    assert c.stop() == 0, c.logs()


def test_a_killed_gateways_streams_are_found_at_the_router_that_has_them(pair):
    kinds = [(path, {**kind, "max_tokens": 1000}) for path, kind in KINDS[:5]]
    expected = [ask(pair, path, kind).content() for path, kind in kinds]
    gateway = Gateway(pair, reversed(pair.ready["routers"]))  # the cluster's own is at the first
    answers = outlive(pair, gateway, kinds)
    assert [a.error for a in answers] == [None] * len(kinds)
    assert [a.content() for a in answers] == expected and max(a.connections for a in answers) > 1
    unknown = Answer()
    unknown.id = "req-unknown"
    assert unknown.resume(pair.url, pair.key) == 404
    # While a router cannot be asked, nobody knows that there is none.
    pid = pair.ready["pids"]["routers"][1]
    os.kill(pid, signal.SIGSTOP)
    threads = list(pathlib.Path(f"/proc/{pid}/task").glob("*/stat"))
    eventually(lambda: all(t.read_text().rpartition(")")[2].split()[0] == "T" for t in threads), what="a stopped router")
    try:
        assert unknown.resume(pair.url, pair.key) == 503 and unknown.error["code"] == "not_ready"
        assert pair.ready["routers"][1] in unknown.error["message"]
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(pair.workers_idle, what="idle workers")
    # What is delivered is kept no longer, at the other router neither.
    assert eventually(lambda: answers[0].resume(pair.url, pair.key) == 404, what="the end of what is delivered")


def test_streams_leave_a_router_that_hangs(pair):
    kinds = [(path, {**kind, "max_tokens": 600}) for path, kind in KINDS[:4]]
    expected = [ask(pair, path, kind).content() for path, kind in kinds]
    pid = victim(pair, "router")
    everyone_runs = threading.Barrier(len(kinds), action=lambda: os.kill(pid, signal.SIGSTOP))
    try:  # none has the time to wait for TCP
        answers = ask_all(pair, kinds, headers={"x-request-timeout": "25"}, on_event=lambda n: n == 6 and everyone_runs.wait(60))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert [a.error for a in answers] == [None] * len(kinds)
    assert [a.content() for a in answers] == expected
    eventually(pair.workers_idle, what="idle workers")
    assert eventually(lambda: of_routers(pair, "choir_ledger_difference") == [0, 0], what="even ledgers")


def test_new_requests_leave_a_router_that_cannot_write_its_audit_log_and_come_back(pair):
    assert ask_whole(pair)[0] == 200
    used = victim(pair, "router")
    routers = pair.ready["pids"]["routers"]
    metrics = pair.ready["metrics"]["routers"][routers.index(used)]

    def limit(bytes_max):
        resource.prlimit(used, resource.RLIMIT_FSIZE, (bytes_max, resource.RLIM_INFINITY))

    try:
        limit(1)
        code, _, answer = ask_whole(pair)
        assert code == 503 and json.loads(answer)["error"]["code"] == "audit"
        eventually(lambda: not is_ready(metrics), what="a router that says so")
        assert "audit log" in admin_page(metrics)[1]
        eventually(lambda: ask_whole(pair)[0] == 200, what="service at the other router")
        assert [ask_whole(pair)[0] for _ in range(20)] == [200] * 20
    finally:
        limit(resource.RLIM_INFINITY)
    eventually(lambda: is_ready(metrics), what="a router that can write again")
    before = pair.metric(metrics, "choir_audit_records_total", phase="intent")
    eventually(lambda: ask_whole(pair)[0] == 200 and pair.metric(metrics, "choir_audit_records_total", phase="intent") > before,
               what="new requests at the first router again")
    # Without another one requests stay, and hear why they are refused.
    os.kill(pair.process.pid, signal.SIGSTOP)  # nobody restarts what is killed
    try:
        os.kill(next(pid for pid in routers if pid != used), signal.SIGKILL)
        limit(1)
        codes = [(code, json.loads(answer)["error"]["code"]) for code, _, answer in (ask_whole(pair) for _ in range(5))]
        assert codes == [(503, "audit")] * 5
    finally:
        limit(resource.RLIM_INFINITY)
        os.kill(pair.process.pid, signal.SIGCONT)
    eventually(lambda: ask_whole(pair)[0] == 200, what="service after the disk has room")
