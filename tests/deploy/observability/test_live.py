"""Dashboards and alerts against a real Prometheus that scrapes a live cluster while it is asked, killed and held back."""
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
from clusters import BIN, ROOT, Cluster, add_key, eventually
from prometheus import Prometheus, metrics_of

# Two requests a second for one tenant: it hits its limit.
CONFIG = """
router:
  tenants:
    held: {requests_per_second: 2, burst: 2}
  result_cache: {store: memory}
worker: {kv_bytes: 8MiB}
"""
NO_COLLECTOR = "127.0.0.1:1"  # spans are dropped, and counted
SINCE = 10  # seconds that "$__rate_interval" stands for
DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
PANELS = [(path.stem, panel["title"], target["expr"]) for path in DASHBOARDS
          for panel in json.loads(path.read_text())["panels"] for target in panel.get("targets", [])]


class Load:
    """Clients that ask until they are stopped: a tenant without limits, one that is held back, one without a key."""

    def __init__(self, cluster, keys):
        self.cluster, self.over = cluster, threading.Event()
        self.context = ssl.create_default_context(cafile=cluster.state / "tls" / "ca.pem")
        self.answers = {name: {} for name in keys}
        self.threads = [threading.Thread(target=self.ask, args=item) for item in keys.items()]
        for thread in self.threads:
            thread.start()

    def ask(self, name, key):
        pause = threading.Event()
        while not self.over.is_set():
            status = self.once(key, len(self.answers[name]))
            self.answers[name][status] = self.answers[name].get(status, 0) + 1
            pause.wait(0.1)

    def once(self, key, n):
        # Each question twice: once computed, once known.
        prompt = "the same beginning of all prompts, again and again, for the cache " * 3 + str(n // 2)
        body = {"model": self.cluster.model, "prompt": prompt, "max_tokens": 24, "stream": True, "ignore_eos": True, "temperature": 0}
        request = urllib.request.Request(self.cluster.url + "/v1/completions", json.dumps(body).encode(),
                                         {"authorization": f"Bearer {key}", "content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60, context=self.context) as answer:
                answer.read()
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except (OSError, ValueError):
            return 0

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(90)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A cluster of two groups and two routers with TLS, a Prometheus that watches it, and load until the end."""
    tmp = tmp_path_factory.mktemp("watched")
    (tmp / "state").mkdir(mode=0o700)
    keys = {tenant: add_key(tmp / "state", tenant) for tenant in ("free", "held")}
    cluster = Cluster(tmp, groups=2, ranks=2, config=CONFIG, extra=("--routers", 2, "--tls", "on", "--trace-endpoint", NO_COLLECTOR))
    try:
        prometheus = Prometheus(tmp, cluster.ready["metrics"])
        try:
            prometheus.began = time.time()
            load = Load(cluster, keys | {"nobody": "no-such-key"})
            try:
                yield cluster, prometheus, load
            finally:
                load.stop()
        finally:
            prometheus.stop()
    finally:
        code = cluster.stop()
    assert code == 0, cluster.logs()


def scrapes(prometheus, count):
    """Waits until each target that is there now was scraped so many times from now on."""
    query = 'min(count_over_time(up[1h]) and up)'

    def seen():
        result = prometheus.query(query)
        return float(result[0]["value"][1]) if result else 0

    goal = seen() + count
    eventually(lambda: seen() >= goal, 120, f"{count} scrapes")


def kill(cluster, part, index):
    """Ends a process and waits for its successor."""
    before = cluster.ready["pids"][part][index]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: cluster.ready["pids"][part][index] != before and cluster.serves(), 120, f"a new one of {part}")


def test_no_alert_while_all_is_well(watched):
    _, prometheus, load = watched
    eventually(lambda: load.answers["free"].get(200, 0) >= 5 and load.answers["held"].get(429, 0) >= 1, 120, "answers")
    scrapes(prometheus, 5)
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 50
    firing = {name for name, state in prometheus.alerts().items() if state == "firing"}
    # What is slow on a machine that does other things as well is no fault of the rules.
    assert firing <= {"ChoirFirstTokenLate", "ChoirTokensLate", "ChoirAuditSlow"}, prometheus.alerts()


def test_panels_and_alerts_under_load_kills_and_limits(watched):
    cluster, prometheus, load = watched
    kill(cluster, "workers", 1)
    kill(cluster, "routers", 0)
    answered = load.answers["free"].get(200, 0)
    eventually(lambda: load.answers["free"].get(200, 0) >= answered + 5, 120, "answers after the kills")
    scrapes(prometheus, SINCE)
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    # They have their turn each half minute, and nothing to say at their first one.
    eventually(lambda: recorded <= prometheus.names(), 180, "every recorded series")
    known, wrong = prometheus.names(), []
    for board, title, expression in PANELS:
        query = expression.replace("$__rate_interval", f"{SINCE}s").replace("$instance", ".*")
        if unknown := metrics_of(query) - known:
            wrong.append(f"{board} / {title}: no such metric: {unknown}")
        elif "$" in query:
            wrong.append(f"{board} / {title}: a variable that the dashboard does not have: {query}")
        elif not prometheus.query_range(query, prometheus.began, time.time()):
            wrong.append(f"{board} / {title}: no data: {query}")
    for group in prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            if rule["health"] != "ok":
                wrong.append(f"{rule['name']}: {rule['health']}: {rule.get('lastError')}")
            if unknown := metrics_of(rule["query"]) - known:
                wrong.append(f"{rule['name']}: no such metric: {unknown}")
    assert not wrong, "\n".join(wrong)


def test_a_broken_keys_file_is_seen(watched):
    cluster, prometheus, _ = watched
    keys = cluster.state / "keys.yaml"
    good = keys.read_text()

    def replace(text):
        new = keys.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o600)
        new.rename(keys)

    replace("keys: [")
    eventually(lambda: "ChoirReloadFailed" in prometheus.alerts(), 60, "the alert")
    replace(good)
    eventually(lambda: "ChoirReloadFailed" not in prometheus.alerts(), 60, "the end of the alert")


def test_a_gateway_that_cannot_start_is_seen(watched, tmp_path):
    _, prometheus, _ = watched
    (tmp_path / "key.pem").write_text("no key")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        admin = f"127.0.0.1:{free.getsockname()[1]}"
    gateway = subprocess.Popen([BIN / "choir-gateway", "--listen", "127.0.0.1:0", "--admin", admin, "--retry-start", "1h",
                                "--tls-cert", tmp_path / "key.pem", "--tls-key", tmp_path / "key.pem"])
    try:
        prometheus.watch_others(admin)
        eventually(lambda: "ChoirStartFailed" in prometheus.alerts(), 60, "the alert")
    finally:
        gateway.terminate()
        prometheus.watch_others()
        assert gateway.wait(60) == 0
    eventually(lambda: "ChoirStartFailed" not in prometheus.alerts(), 120, "the end of the alert")


def test_groups_whose_ranks_stand_still_are_seen(watched):
    """One rank of each group answers nobody, as behind a cable that was pulled."""
    cluster, prometheus, load = watched
    stopped = cluster.ready["pids"]["workers"][1::2]
    wanted = {"ChoirTargetDown", "ChoirNoRankReady", "ChoirGroupIncomplete"}
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: wanted <= prometheus.alerts().keys(), 120, f"alerts {wanted}")
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    eventually(lambda: not wanted & prometheus.alerts().keys(), 120, "the end of the alerts")
    answered = load.answers["free"].get(200, 0)
    eventually(lambda: load.answers["free"].get(200, 0) > answered, 120, "answers again")


def test_a_router_that_starts_again_and_again_is_seen(watched):
    cluster, prometheus, _ = watched
    for _ in range(4):
        kill(cluster, "routers", 0)
        scrapes(prometheus, 2)
    eventually(lambda: prometheus.alerts().get("ChoirRestarting") == "firing", 60, "the alert")
