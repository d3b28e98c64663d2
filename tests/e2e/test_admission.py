"""Admission, as clients and operators meet it: real processes, a worker that runs two sequences at once and is stopped
while the queues are looked at, so that what waits and what runs is known."""
import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request

import openai
import pytest
from commands import add_key, check_router_config
from conftest import BIN, Cluster, eventually, status_page

CONFIG = """
router:
  tenants:
    app: {class: interactive}
    flood: {class: bulk}
    one: {}
    two: {}
  admission:
    ahead: 0
    interactive: {floor: 1}
    default: {queue: 100}
    bulk: {queue: 4}
worker: {sequences_max: 2}
"""
IMPATIENT = CONFIG.replace("default: {queue: 100}", "default: {queue: 100, queue_timeout: 300ms}")


class Queued(Cluster):
    """One rank; keys of tenants of several classes; requests are asked in the background."""

    def __init__(self, tmp, config=CONFIG, **kwargs):
        (tmp / "state").mkdir(mode=0o700)
        self.keys = {tenant: add_key(tmp / "state", tenant) for tenant in ("app", "flood", "one", "two")}
        self.keys["bulk key"] = add_key(tmp / "state", "app", "--class", "bulk")
        super().__init__(tmp, ranks=1, config=config, **kwargs)
        self.pool = concurrent.futures.ThreadPoolExecutor(100)

    def ask(self, tenant, max_tokens=4, wanted=None, timeout=None):
        """The raw answer, or the error."""
        headers = {name: value for name, value in (("x-choir-class", wanted), ("x-request-timeout", timeout)) if value}
        try:
            return self.openai(api_key=self.keys[tenant]).completions.with_raw_response.create(
                model=self.model, prompt="hi", max_tokens=max_tokens, extra_body={"ignore_eos": True}, extra_headers=headers)
        except openai.APIStatusError as error:
            return error

    def later(self, tenant, **kwargs):
        return self.pool.submit(self.ask, tenant, **kwargs)

    def router_url(self):
        return self.ready["metrics"]["router"]

    def admission(self, name):
        return status_page(self.router_url())["admission"]["classes"][name]

    def reaches(self, name, running, waiting):
        """The class is so and stays so: nothing is computed."""
        eventually(lambda: [self.admission(name)[k] for k in ("running", "waiting")] == [running, waiting],
                   what=f"{running} running and {waiting} waiting of {name}")

    @contextlib.contextmanager
    def stopped(self):
        """Nothing is computed within: what runs goes on running."""
        pids = self.ready["pids"]["workers"]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def records(self, phase):
        lines = (json.loads(line) for path in sorted((self.state / "audit").rglob("*.jsonl")) for line in path.open())
        return [r for r in lines if r["phase"] == phase]

    def even(self):
        eventually(lambda: self.metric(self.router_url(), "choir_requests_inflight") == 0, what="the end of all requests")
        return self.metric(self.router_url(), "choir_ledger_difference") == 0


@pytest.fixture(scope="module")
def queued(tmp_path_factory):
    c = Queued(tmp_path_factory.mktemp("queued"))
    yield c
    assert c.even()
    assert c.stop() == 0, c.logs()


def good(futures):
    codes = [f.result(timeout=120).status_code for f in futures]
    return codes == [200] * len(codes)


def body(answer):
    return answer.response.json()["error"]


def test_a_flood_of_bulk_does_not_hold_up_interactive(queued):
    with queued.stopped():
        flood = [queued.later("flood") for _ in range(5)]
        queued.reaches("bulk", 1, 4)
        first = queued.later("app")
        queued.reaches("interactive", 1, 0)
        second = queued.later("app")
        queued.reaches("interactive", 1, 1)  # both places are taken, and it is next
    assert good([*flood, first, second])
    page = subprocess.run([BIN / "choir", "status", "--state", queued.state], capture_output=True, text=True).stdout
    assert "waiting    queue" in page and "bulk" in page, page


def test_a_header_lowers_the_class_and_the_audit_log_says_so(queued):
    with queued.stopped():
        lowered = [queued.later("app", wanted="bulk"), queued.later("bulk key")]
        queued.reaches("bulk", 1, 1)
        same = queued.later("app", wanted="interactive")
        queued.reaches("interactive", 1, 0)
    assert good([*lowered, same])
    classes = [r["class"] for r in queued.records("intent") if r["tenant"] == "app"]
    assert sorted(classes[-3:]) == ["bulk", "bulk", "interactive"]


@pytest.mark.parametrize("key,wanted", [("one", "interactive"), ("flood", "default"), ("bulk key", "interactive"), ("app", "system")])
def test_a_header_does_not_raise_the_class(queued, key, wanted):
    refused = queued.ask(key, wanted=wanted)
    assert refused.status_code == 403
    assert body(refused)["code"] == "permission_denied" and body(refused)["param"] == "x-choir-class"
    assert "class is" in body(refused)["message"]
    assert queued.records("refused")[-1]["status"] == 403


def test_a_class_that_there_is_not_is_named(queued):
    refused = queued.ask("one", wanted="gold")
    assert refused.status_code == 400 and body(refused)["param"] == "x-choir-class"
    assert "interactive, default, bulk" in body(refused)["message"]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(queued):
    refusals = lambda: queued.metric(queued.router_url(), "choir_admission_refused_total", **{"class": "bulk", "reason": "queue"})
    before = refusals()
    with queued.stopped():
        flood = [queued.later("flood") for _ in range(5)]
        queued.reaches("bulk", 1, 4)
        refused = queued.ask("flood")
        assert queued.metric(queued.router_url(), "choir_queue_depth", **{"class": "bulk"}) == 4
    assert refused.status_code == 503 and int(refused.response.headers["retry-after"]) >= 1
    assert body(refused)["type"] == "overloaded_error" and body(refused)["code"] == "queue_full"
    assert "router.admission.bulk.queue" in body(refused)["message"]
    assert refusals() == before + 1
    assert good(flood)
    record = queued.records("refused")[-1]
    assert record["limit"] == {"decision": "refused", "rule": "class:bulk.queue"} and record["class"] == "bulk"


def test_tenants_of_a_class_take_turns_however_many_requests_one_sends(queued):
    with queued.stopped():
        many = [queued.later("one") for _ in range(10)]
        queued.reaches("default", 1, 9)
        other = queued.later("two")
        queued.reaches("default", 1, 10)
    assert good([*many, other])
    order = [r["tenant"] for r in queued.records("intent") if r["tenant"] in ("one", "two")][-11:]
    assert order.index("two") <= 2, order


def test_a_deadline_that_cannot_be_met_is_refused_at_once(queued):
    flood = [queued.later("one", max_tokens=100) for _ in range(60)]
    eventually(lambda: queued.admission("default")["wait_seconds"], what="a rate that was seen")
    with queued.stopped():
        def refused():
            answer = queued.ask("one", timeout="0.3")
            assert answer.status_code in (503, 504)
            return answer if answer.status_code == 503 else None
        answer = eventually(refused, what="a refusal")
        assert body(answer)["code"] == "deadline" and "its deadline is in 0.3 s" in body(answer)["message"]
        assert queued.records("refused")[-1]["limit"]["rule"] == "class:default.deadline"
    assert good(flood)
    assert queued.ask("one", timeout="30").status_code == 200


def test_who_gives_up_leaves_the_queue(queued):
    with queued.stopped():
        running = queued.later("one")
        queued.reaches("default", 1, 0)
        client = queued.openai(api_key=queued.keys["one"]).with_options(timeout=0.5)
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(model=queued.model, prompt="hi", max_tokens=4)
        queued.reaches("default", 1, 0)
    assert good([running])


def test_queued_requests_outlive_the_worker_that_they_waited_for(queued):
    with queued.stopped():
        asked = [queued.later("one") for _ in range(12)]
        queued.reaches("default", 1, 11)
        old = queued.ready["pids"]["workers"][0]
        os.kill(old, signal.SIGKILL)
        eventually(lambda: queued.ready["pids"]["workers"][0] != old, what="the next worker")
    assert good(asked)


def configure(tmp, text):
    """Never half a file."""
    (tmp / "next.yaml").write_text(text)
    (tmp / "next.yaml").replace(tmp / "config.yaml")


def test_patience_has_an_end_and_new_rules_are_taken_up(tmp_path):
    queued = Queued(tmp_path, config=IMPATIENT)
    try:
        with queued.stopped():
            running = queued.later("one")
            queued.reaches("default", 1, 0)
            refused = queued.ask("two")
            assert refused.status_code == 503 and body(refused)["code"] == "queue_full"
            assert "waited 0.3" in body(refused)["message"] and int(refused.response.headers["retry-after"]) >= 1
            assert queued.records("refused")[-1]["limit"]["rule"] == "class:default.queue_timeout"
            configure(tmp_path, CONFIG.replace("default: {queue: 100}", "default: {queue: 0}"))
            eventually(lambda: queued.admission("default")["queue"] == 0, what="the new rules")
            assert "router.admission.default.queue" in body(queued.ask("two"))["message"]
            configure(tmp_path, CONFIG.replace("default: {queue: 100}", "default: {queue: many}"))
            success = lambda: queued.metric(queued.router_url(), "choir_config_reload_success")
            eventually(lambda: success() == 0, what="the broken file's mark")
            assert queued.admission("default")["queue"] == 0
        assert good([running])
        assert queued.even()
    finally:
        assert queued.stop() == 0, queued.logs()


def test_a_router_that_drains_serves_what_it_has_queued(tmp_path):
    queued = Queued(tmp_path)
    try:
        with queued.stopped():
            asked = [queued.later("one") for _ in range(5)]
            queued.reaches("default", 1, 4)
            os.kill(queued.ready["pids"]["router"], signal.SIGTERM)
            eventually(lambda: not queued.serves(), what="a router that drains")
            refused = queued.ask("two")
            assert refused.status_code == 503 and body(refused)["code"] in ("draining", "not_ready")
        assert good(asked)
    finally:
        queued.stop()


@pytest.mark.parametrize("yaml,says", [
    ("{bulk: {queue: -1}}", "router.admission: bulk: queue: '-1'"),
    ("{blk: {queue: 1}}", "did you mean 'bulk'"),
    ("{bulk: {floor: 80%}, default: {floor: 30%}}", "at most 100%"),
    ("{interactive: {floor: 5, ceiling: 2}}", "above the ceiling"),
])
def test_a_bad_configuration_is_refused_by_name(tmp_path, yaml, says):
    run = check_router_config(tmp_path, f"router:\n  admission: {yaml}\n")
    assert run.returncode == 2 and says in run.stderr, run.stderr


def foresee(cluster, tenant, wanted=None, timeout=None):
    """What the dry run says of its admission: to a client, and to `choir route`."""
    headers = {"authorization": f"Bearer {cluster.keys[tenant]}", "content-type": "application/json"}
    headers |= {name: value for name, value in (("x-choir-class", wanted), ("x-request-timeout", timeout)) if value}
    data = json.dumps({"model": cluster.model, "prompt": "hi", "max_tokens": 4}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{cluster.url}/v1/choir/route", data, headers), timeout=60) as answer:
        page = json.load(answer)["admission"]
    command = [BIN / "choir", "route", "--url", cluster.url, "--prompt", "hi", *(["--class", wanted] if wanted else [])]
    told = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CHOIR_API_KEY": cluster.keys[tenant]})
    return page, told.stdout, told.returncode


def test_the_dry_run_says_class_and_wait_and_counts_nothing(queued):
    page, told, code = foresee(queued, "one")
    assert page == {"outlook": "runs", "class": "default"}
    assert "class default: it would run at once" in told and code == 0
    with queued.stopped():
        running = [queued.later("one")]  # the other place is kept for interactive ones
        queued.reaches("default", 1, 0)
        waiting = [queued.later("flood") for _ in range(4)]
        queued.reaches("bulk", 0, 4)
        page, told, code = foresee(queued, "one")
        assert page["outlook"] == "waits" and page["place"] == 1 and page["class"] == "default"
        assert page["wait_seconds"] is None or page["wait_seconds"] > 0
        assert "class default: it would wait, as number 1 of its class" in told and code == 0
        page, told, code = foresee(queued, "one", wanted="bulk")
        refused = queued.ask("one", wanted="bulk")
        assert page["outlook"] == "refused" and page["class"] == "bulk"
        assert (page["status"], page["code"]) == (refused.status_code, body(refused)["code"]) == (503, "queue_full")
        assert page["message"] == body(refused)["message"] and page["retry_after"] > 0
        assert "class bulk: it would be refused: 503 queue_full" in told and code == 1
        with pytest.raises(urllib.error.HTTPError) as raised:
            foresee(queued, "flood", wanted="interactive")
        assert raised.value.code == 403
        queued.reaches("default", 1, 0)
        queued.reaches("bulk", 0, 4)
    assert good(running + waiting)
