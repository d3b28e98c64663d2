"""Limits of tenants, counted from outside with real clients: never more than allowed, and not less."""
import contextlib
import json
import subprocess
import threading
import time
import urllib.request

import openai
import pytest
from commands import add_key, check_router_config
from conftest import BIN, CHECKPOINTS, Cluster, eventually, held_workers, status_page

CONFIG = """
router:
  tenants:
    rate: {requests_per_second: 5, burst: 5}
    pair: {concurrency: 2}
    minute: {tokens_per_minute: 1000}
    poor: {budget: 0.0001}
    day: {tokens_per_day: 50000}
    all: {requests_per_second: 1000, concurrency: 100, tokens_per_minute: 100000, tokens_per_day: 1000000}
  limits:
    prices: {prompt: 1, cached: 1, output: 1}
"""
TENANTS = ("rate", "pair", "minute", "poor", "day", "all", "free")


class Limited(Cluster):
    """A cluster with keys of several tenants."""

    def __init__(self, tmp, **kwargs):
        (tmp / "state").mkdir(mode=0o700)
        self.keys = {tenant: add_key(tmp / "state", tenant) for tenant in TENANTS}
        self.keys["small key"] = add_key(tmp / "state", "free", "--limit", "requests_per_second=0.001")
        super().__init__(tmp, **kwargs)

    def client(self, tenant):
        return self.openai(api_key=self.keys[tenant])

    def ask(self, tenant, max_tokens=1, **kwargs):
        """The raw answer, or the error."""
        try:
            return self.client(tenant).completions.with_raw_response.create(
                model=self.model, prompt="hi", max_tokens=max_tokens, extra_body={"ignore_eos": True}, **kwargs)
        except openai.APIStatusError as error:
            return error

    def ledgers(self):
        return [self.metric(url, "choir_ledger_difference") for url in self.routers()]

    def status(self, router=0):
        return status_page(self.routers()[router])

    def records(self):
        return [json.loads(line) for path in (self.state / "audit").rglob("*.jsonl") for line in path.open()]

    def routers(self):
        metrics = self.ready["metrics"]
        return metrics.get("routers") or [metrics["router"]]


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    c = Limited(tmp_path_factory.mktemp("limited"), config=CONFIG)
    yield c
    assert c.ledgers() == [0]
    assert c.stop() == 0, c.logs()


def seconds(text):
    assert text.endswith("s")
    return float(text[:-1])


def open_stream(cluster, tenant, max_tokens=100):
    return cluster.client(tenant).completions.create(model=cluster.model, prompt="hi", max_tokens=max_tokens, stream=True,
                                                     extra_body={"ignore_eos": True})


def check_not_over(answers, burst, rate):
    """From (asked, answered, code): no window has more than allowed."""
    good = sorted(a for a in answers if a[2] == 200)
    assert {code for _, _, code in answers} <= {200, 429}
    for first in range(len(good)):
        end = 0
        for last in range(first, len(good)):
            end = max(end, good[last][1])  # each was decided between its two times
            assert last - first + 1 <= burst + rate * (end - good[first][0])
    return good


def check_rate(answers, burst, rate):
    """Also: nothing was refused without need. The bucket was full before."""
    good = check_not_over(answers, burst, rate)
    refused = [a for a in answers if a[2] == 429]
    for asked, answered, _ in refused:
        assert any(sum(g[1] >= since[0] and g[0] <= answered for g in good) + 1 > burst + rate * max(0, asked - since[1])
                   for since in good)
    return len(good), len(refused)


def test_a_burst_passes_and_the_rate_holds_over_time(limited):
    """Counted from outside: in every window at most burst + rate * time, and not less."""
    answers = []

    def ask():
        before = time.monotonic()
        code = limited.ask("rate").status_code
        answers.append((before, time.monotonic(), code))

    began = time.monotonic()
    while time.monotonic() < began + 4:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    check_rate(answers, burst=5, rate=5)


def test_a_refusal_says_when_to_come_back_and_that_is_true(limited):
    while (refused := limited.ask("rate")).status_code == 200:
        pass
    assert refused.status_code == 429
    body = refused.response.json()["error"]
    assert body["type"] == "rate_limit_error" and body["code"] == "requests" and body["param"] is None
    headers = refused.response.headers
    assert headers["retry-after"] == "1"  # at most 0.2 s, rounded up
    assert headers["x-ratelimit-limit-requests"] == "5" and headers["x-ratelimit-remaining-requests"] == "0"
    assert 0.8 <= seconds(headers["x-ratelimit-reset-requests"]) <= 1
    assert headers["x-choir-audit"]
    threading.Event().wait(1)
    assert limited.ask("rate").status_code == 200


def test_every_answer_of_a_limited_tenant_says_what_is_left(limited):
    first = limited.ask("minute", max_tokens=50)
    assert first.headers["x-ratelimit-limit-tokens"] == "1000"
    assert "x-ratelimit-limit-requests" not in first.headers
    left = int(first.headers["x-ratelimit-remaining-tokens"])
    used = json.loads(first.text)["usage"]["total_tokens"]
    assert left <= 1000 - used and seconds(first.headers["x-ratelimit-reset-tokens"]) > 0
    many = limited.ask("all")
    for kind, limit in (("requests", 1000), ("tokens", 100000)):
        assert many.headers[f"x-ratelimit-limit-{kind}"] == str(limit)
        assert 0 < int(many.headers[f"x-ratelimit-remaining-{kind}"]) <= limit
    assert not any(name.startswith("x-ratelimit") for name in limited.ask("free").headers)


def test_what_never_fits_is_refused_without_a_hint_to_wait(limited):
    refused = limited.ask("minute", max_tokens=100, n=12)
    assert refused.status_code == 429 and refused.response.json()["error"]["code"] == "tokens"
    assert "retry-after" not in refused.response.headers
    assert "1000" in refused.response.json()["error"]["message"]


def test_places_are_for_requests_that_run_and_come_back_with_their_end(limited):
    """Complaint 24: a place that is never given back is 429 for ever."""
    for _ in range(3):
        with held_workers(limited):
            streams = [open_stream(limited, "pair") for _ in range(2)]
            refused = limited.ask("pair")
            assert refused.status_code == 429 and refused.response.json()["error"]["code"] == "concurrency"
            assert refused.response.headers["retry-after"] == "1"
            for stream in streams:
                stream.close()
        eventually(lambda: limited.ask("pair").status_code == 200, what="a place")


def test_what_is_charged_is_what_was_used_also_by_streams_that_were_cut(limited):
    """Complaints 22, 27 and 29: a stream that is cut is neither free nor charged in full, and nothing stays reserved."""
    began = time.monotonic()
    for cut_after in (0, 1, 5, None):
        with contextlib.ExitStack() as stack:
            if cut_after == 0:
                stack.enter_context(held_workers(limited))
            stream = open_stream(limited, "day")
            if cut_after != 0:
                for n, _ in enumerate(stream, 1):
                    if n == cut_after:
                        break
            stream.close()
    limited.ask("day", max_tokens=10, n=3)
    idle = lambda: limited.metric(limited.routers()[0], "choir_requests_inflight") == 0
    eventually(idle, what="the end")
    page = limited.status()
    assert page["ledgers"]["limit_tokens"]["outstanding"] == 0
    outcomes = [r for r in limited.records() if r["phase"] == "outcome" and r["tenant"] == "day"]
    used = sum(r["prompt_tokens"] + r["output_tokens"] for r in outcomes)
    assert len(outcomes) == 5 and used > 100
    refilled = (time.monotonic() - began) * 50000 / 86400
    charged = float(page["limits"]["used"]["tenant:day"]["tokens_per_day"].split()[0])
    assert used - refilled <= charged <= used


def test_a_budget_is_used_up_and_not_refilled(limited):
    assert limited.ask("poor", max_tokens=10).status_code == 200
    refused = limited.ask("poor", max_tokens=300)
    assert refused.status_code == 402 and refused.response.json()["error"]["code"] == "insufficient_balance"
    assert "retry-after" not in refused.response.headers
    for _ in range(100):
        answer = limited.ask("poor", max_tokens=20)
        if answer.status_code == 402:
            break
    assert answer.status_code == 402


def test_each_refusal_counts_once_and_is_on_record(limited):
    url = limited.routers()[0]
    before = limited.metric(url, "choir_rejected_total", reason="requests")
    codes = [limited.ask("rate").status_code for _ in range(12)]
    assert limited.metric(url, "choir_rejected_total", reason="requests") == before + codes.count(429)
    records = limited.records()
    refused = [r for r in records if r["phase"] == "refused" and r.get("status") == 429]
    assert {"decision": "refused", "rule": "tenant:rate.requests_per_second"} in [r["limit"] for r in refused]
    admitted = [r["limit"] for r in records if r["phase"] == "intent" and r["tenant"] == "rate"]
    assert {"decision": "admitted", "rule": "tenant:rate"} in admitted


def test_status_shows_limits_to_operators_and_only_its_own_to_a_tenant(limited):
    page = limited.status()
    assert page["limits"]["store"] == "memory" and page["limits"]["degraded"] is False
    assert "tenant:pair" in page["limits"]["used"] and "tenant:rate" in page["limits"]["used"]
    request = urllib.request.Request(limited.url + "/v1/choir/status", headers={"Authorization": f"Bearer {limited.keys['pair']}"})
    own = json.load(urllib.request.urlopen(request, timeout=10))
    assert set(own["limits"]["used"]) == {"tenant:pair"}


def test_a_key_has_limits_of_its_own(limited):
    assert [limited.ask("small key").status_code for _ in range(3)] == [200, 429, 429]
    assert limited.ask("free").status_code == 200  # another key of the same tenant
    rules = [r["limit"]["rule"] for r in limited.records() if r["phase"] == "refused" and r["tenant"] == "free"]
    assert len(rules) == 2 and all(rule.startswith("key:") and rule.endswith(".requests_per_second") for rule in rules)


def test_new_limits_are_taken_up_without_a_restart_and_broken_ones_are_not(tmp_path):
    limited = Limited(tmp_path, ranks=1, config="router: {tenants: {rate: {requests_per_second: 0.001}}}")
    good = lambda: limited.metric(limited.routers()[0], "choir_config_reload_success")
    try:
        assert [limited.ask("rate").status_code for _ in range(2)] == [200, 429]
        (tmp_path / "config.yaml").write_text("router: {tenants: {rate: {request: 1}}}")
        eventually(lambda: good() == 0, what="the broken file's mark")
        assert limited.ask("rate").status_code == 429
        (tmp_path / "config.yaml").write_text("router: {tenants: {pair: {requests_per_second: 0.001}}}")
        eventually(lambda: limited.ask("rate").status_code == 200, what="the new limits")
        assert good() == 1
        assert [limited.ask("pair").status_code for _ in range(2)] == [200, 429]
    finally:
        assert limited.stop() == 0, limited.logs()


@pytest.mark.parametrize("yaml,says", [
    ("tenants: {acme: {request_per_second: 5}}", "requests_per_second"),
    ("tenants: {acme: {concurrency: 0}}", "router.tenants: acme: concurrency: '0'"),
    ("tenants: {acme: {class: gold}}", "interactive"),
    ("limits: {default: {budget: 1}}", "router.limits.prices"),
    ("limits: {globl: {}}", "global"),
    ("certificates: [{dns: app.example.org, tenant: acme, limits: {budget: 1}}]", "certificates: app.example.org: a budget needs prices"),
])
def test_a_bad_configuration_is_refused_by_name(tmp_path, yaml, says):
    run = check_router_config(tmp_path, f"router:\n  {yaml}\n")
    assert run.returncode == 2 and says in run.stderr, run.stderr


def test_a_budget_of_a_key_that_nothing_counts_is_warned_of(tmp_path):
    """When the key is made, when a router reads it, and when the prices go."""
    def add(*limit):
        run = subprocess.run([BIN / "choir", "keys", "add", "--file", tmp_path / "keys.yaml", "--tenant", "acme", "--json", *limit],
                             capture_output=True, text=True, check=True)
        return json.loads(run.stdout)["id"], run.stderr

    plain, said = add()
    assert not said
    first, said = add("--limit", "budget=5")
    assert "a budget has no effect where there is no router.limits.prices" in said
    config, log = tmp_path / "config.yaml", tmp_path / "router.log"
    config.write_text("router: {limits: {prices: {output: 1}}}\n")
    with open(log, "wb") as file:
        router = subprocess.Popen([BIN / "choir-router", "--model", CHECKPOINTS / "tiny_glm4_moe", "--keys", tmp_path / "keys.yaml", "--worker", "127.0.0.1:1",
                                   "--audit-dir", tmp_path / "audit", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config", config],
                                  stderr=file, stdout=subprocess.PIPE)
    try:
        assert router.stdout.readline()  # it listens
        warned = "have no effect without router.limits.prices: "
        assert warned not in log.read_text()
        config.write_text("router: {limits: {global: {concurrency: 5}}}\n")
        eventually(lambda: warned + first + "\n" in log.read_text(), what="the warning after the prices went")
        second, _ = add("--limit", "budget=5")
        eventually(lambda: f"{warned}{first}, {second}\n" in log.read_text(), what="the warning of another key")
        assert plain not in log.read_text()
    finally:
        router.terminate()
        assert router.wait(60) == 0
