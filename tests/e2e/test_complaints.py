"""What users of other systems complain about (docs/complaints.md), where no other test would have shown it here."""
import concurrent.futures
import itertools
import json
import os
import resource
import signal
import time

import grpc
import pytest
from commands import add_key
from conftest import Cluster, admin_page, eventually, held_workers
from streams import STORY, TEXT, Answer, ask, body, long_model
from test_grpc import pb  # noqa: F401 (a fixture)
from wire import call, connect, error_of, read_response, request

CLIENTS_MAX = 2000
CLIENTS_MIN = 200  # with fewer it would show nothing
BODIES = {"/v1/chat/completions": "messages", "/chat/completions": "messages", "/v1/completions": "prompt", "/beta/completions": "prompt"}


def crowd(cluster, clients):
    """As many clients at once, whose requests wait; (answers by status, the slowest probe meanwhile)."""
    sockets, took = [], 0
    try:
        with held_workers(cluster):
            for _ in range(clients):
                s = connect(cluster)
                sockets.append(s)
                s.sendall(request(cluster, "/v1/completions", {"prompt": "hi", "max_tokens": 1}))
            inflight = lambda: cluster.metric(cluster.ready["metrics"]["router"], "choir_requests_inflight")
            probed = itertools.cycle(itertools.product(("gateway", "router"), ("/livez", "/readyz")))
            asked = 0
            while inflight() < clients or asked < 4:
                part, page = next(probed)
                began = time.monotonic()
                assert admin_page(cluster.ready["metrics"][part], page)[0] == 200, (part, page)
                took = max(took, time.monotonic() - began)
                asked += 1
        answers = {}
        for s in sockets:
            status = read_response(s.makefile("rb"))[0]
            answers[status] = answers.get(status, 0) + 1
        return answers, took
    finally:
        for s in sockets:
            s.close()


def test_two_thousand_clients_are_all_answered_probes_too_and_nothing_grows(tmp_path):
    """Complaints 10, 21, 26: beyond some hundred clients others crash, starve their probes, answer 500, or keep memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = min(CLIENTS_MAX, hard // 3)
    assert clients >= CLIENTS_MIN, f"{hard} open files are allowed here: allow {3 * CLIENTS_MIN} at least (ulimit -Hn), better {3 * CLIENTS_MAX}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3 * clients), hard))
    cluster = Cluster(tmp_path, config="router: {worker_stall_timeout: 600s}\n")
    try:
        sizes = []
        for _ in range(3):
            answers, took = crowd(cluster, clients)
            assert answers == {200: clients} and took < 2, (answers, took)
            eventually(lambda: cluster.metric(cluster.ready["metrics"]["gateway"], "choir_http_open_streams") == 0, what="the end of all")
            sizes.append([cluster.metric(cluster.ready["metrics"][part], "process_resident_memory_bytes") for part in ("gateway", "router")])
        growth = [(b - a) / 2**20 for a, b in zip(sizes[1], sizes[2])]
        assert max(growth) < 16, sizes
        for part in ("gateway", "router"):
            assert cluster.metric(cluster.ready["metrics"][part], "choir_ledger_difference") == 0
    finally:
        assert cluster.stop() == 0, cluster.logs()


@pytest.mark.parametrize("size", [33_000, 500_000, 8_200_000])
def test_a_body_of_any_size_below_the_limit_gets_through(shared, size):
    """Complaint 23: others answer 413 above 32 KB. The variable is read by the gateway, sent on, and given to the template."""
    fields = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "chat_template_kwargs": {"unused": "x" * size}}
    status, _, answer = call(shared, "/v1/chat/completions", fields)
    assert status == 200, answer[:300]
    # As its prompt it is too long for the model, which is said of its tokens: it was read to its end.
    status, _, answer = call(shared, "/v1/completions", {"prompt": "x " * (size // 2), "max_tokens": 2})
    assert status == 400 and error_of(answer)["code"] == "context_length_exceeded", answer[:300]


@pytest.fixture(scope="module")
def bound(tmp_path_factory):
    """A cluster with a rule on what is asked, and with a tenant whose budget is used up."""
    tmp = tmp_path_factory.mktemp("bound")
    (tmp / "state").mkdir(mode=0o700)
    poor = add_key(tmp / "state", "poor")
    cluster = Cluster(tmp, config="""
router:
  content_rules: [{name: secret, pattern: 'project x', on: input, action: refuse}]
  tenants: {poor: {budget: 0.00001}}
  limits: {prices: {prompt: 1, cached: 1, output: 1}}
""")
    cluster.poor = poor
    for _ in range(50):
        if call(cluster, "/v1/completions", {"prompt": "hi", "max_tokens": 1}, key=poor)[0] == 402:
            break
    yield cluster
    assert cluster.stop() == 0, cluster.logs()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_no_route_goes_around_rules_and_budgets(bound, path, streamed):
    """Complaint 28: guardrails and budgets of others hold for one route, and not for the one beside it."""
    def asked(text, key=None):
        field = BODIES[path]
        content = [{"role": "user", "content": text}] if field == "messages" else text
        status, _, answer = call(bound, path, {field: content, "max_tokens": 2, "stream": streamed}, key=key)
        return status, None if status == 200 else error_of(answer)["code"]

    assert asked("hello") == (200, None)
    assert asked("of project x")[1] == "content_rule"
    assert asked("hello", bound.poor) == (402, "insufficient_balance")
    if BODIES[path] == "prompt":
        assert asked(["hello", "of project x"])[1] == "content_rule"
        assert asked(["hello", "you"], bound.poor) == (402, "insufficient_balance")


def test_grpc_does_not_go_around_rules_and_budgets(bound, pb):  # noqa: F811
    messages, stubs = pb
    sampling = messages.Sampling(max_tokens=2)
    calls = {"Generate": lambda text: messages.GenerateRequest(model=bound.model, prompt=text, sampling=sampling),
             "Chat": lambda text: messages.ChatRequest(model=bound.model, messages_json=json.dumps([{"role": "user", "content": text}]), sampling=sampling)}
    with grpc.insecure_channel(bound.ready["router"]) as channel:
        stub = stubs.InferenceStub(channel)
        for name, make in calls.items():
            for text, key, code in (("of project x", bound.key, grpc.StatusCode.INVALID_ARGUMENT), ("hello", bound.poor, grpc.StatusCode.RESOURCE_EXHAUSTED)):
                with pytest.raises(grpc.RpcError) as e:
                    list(getattr(stub, name)(make(text), metadata=[("authorization", f"Bearer {key}")], timeout=60))
                assert e.value.code() == code, (name, text, e.value.details())
            assert list(getattr(stub, name)(make("hello"), metadata=[("authorization", f"Bearer {bound.key}")], timeout=60))


def test_a_dead_engine_is_known_though_its_port_is_open(tmp_path):
    """Complaints 9, 11, 12, 13: a stopped process still takes connections, and lists of models are answered without it."""
    cluster = Cluster(tmp_path, model=long_model(tmp_path), ranks=1, groups=2, config="router: {worker_stall_timeout: 2s}\n")
    kind = (TEXT, {**STORY, "seed": 4, "max_tokens": 400})
    pids = cluster.ready["pids"]["workers"]
    try:
        want = ask(cluster, *kind)
        os.kill(pids[0], signal.SIGSTOP)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:  # one of two is stuck: nobody is lost
            for answer in pool.map(lambda _: ask(cluster, *kind), range(8)):
                assert answer.content() == want.content()
        assert cluster.serves()
        os.kill(pids[1], signal.SIGSTOP)
        late = Answer()
        late.read(cluster.url, cluster.key, "POST", TEXT, body(cluster, kind[1]), headers={"x-request-timeout": "8"})
        assert not late.done and late.error["type"] in ("timeout", "overloaded_error"), late.error
        eventually(lambda: not cluster.serves(), what="a router that is not ready")
        assert "rank" in admin_page(cluster.ready["metrics"]["router"])[1]
        status, _, answer = call(cluster, TEXT, {"prompt": "hi", "max_tokens": 1})
        assert status == 503 and error_of(answer)["code"] == "not_ready", answer
        assert call(cluster, "/v1/models", method="GET")[0] == 200  # what is served does not depend on who is up
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        eventually(cluster.serves, what="its return")
        assert ask(cluster, *kind).content() == want.content()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert cluster.stop() == 0, cluster.logs()


def test_a_worker_whose_engine_stands_still_is_not_alive(tmp_path):
    """Complaint 12: others answer 200 to /health from a thread beside the engine, whatever becomes of that."""
    config = "worker: {step_timeout: 1s, heartbeat_timeout: 10m, collective_timeout: 10m}\nrouter: {worker_stall_timeout: 10m}\n"
    cluster = Cluster(tmp_path, model=long_model(tmp_path), ranks=2, config=config)
    kind = (TEXT, {**STORY, "seed": 4, "max_tokens": 400})
    runs, mate = cluster.ready["metrics"]["workers"]
    pid = cluster.ready["pids"]["workers"][1]
    try:
        want = ask(cluster, *kind)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = Answer()  # rank 0 has it, and waits for its mate in the middle of a layer
            reading = pool.submit(answer.read, cluster.url, cluster.key, "POST", TEXT, body(cluster, kind[1]),
                                  on_event=lambda n: n == 4 and os.kill(pid, signal.SIGSTOP))
            status, text = eventually(lambda: (p := admin_page(runs, "/livez"))[0] == 503 and p, what="the word of the probe")
            assert "no step has ended for" in text
            os.kill(pid, signal.SIGCONT)
            assert reading.result() == 200 and answer.done and answer.content() == want.content()
        assert admin_page(runs, "/livez")[0] == admin_page(mate, "/livez")[0] == 200
    finally:
        os.kill(pid, signal.SIGCONT)
        assert cluster.stop() == 0, cluster.logs()
