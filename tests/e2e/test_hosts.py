"""A group whose ranks run on two hosts (network namespaces), router and gateway on a third: it answers with the
bits of a group on one host, also through cut links and stopped ranks. Two ranks share memory, the third is away."""
import json
import os
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request

import openai
import pytest
from commands import add_key
from conftest import BIN, CHECKPOINTS, Cluster, eventually
from namespaces import Net

MODEL = "tiny_glm4_moe"
PARAMS = {"prompt": "Tell me a long story", "max_tokens": 200, "temperature": 1.2, "extra_body": {"ignore_eos": True}}
SEEDS = range(4)


class Hosts:
    def __init__(self, tmp):
        self.tmp = tmp
        self.net = Net("front", "left", "right")
        self.net.names = {"leader.choir.test": ["10.77.0.2"], "ranks.choir.test": ["10.77.0.2", "10.77.0.3"]}
        try:
            self.start()
        except BaseException:
            print(self.logs())
            self.net.stop()
            raise

    def tls(self, role, prefix="--tls"):
        at = self.tmp / "tls" / role
        return [f"{prefix}-cert", f"{at}.pem", f"{prefix}-key", f"{at}-key.pem", f"{prefix}-ca", self.tmp / "tls" / "ca.pem"]

    def start(self):
        subprocess.run([BIN / "choir", "tls", "init", "--dir", self.tmp / "tls"], check=True, capture_output=True)
        self.workers = {0: self.worker("left", 0, 7100), 1: self.worker("left", 1, 7101), 2: self.worker("right", 2, 7100)}
        self.key = add_key(self.tmp, "t")
        self.net.start("front", [BIN / "choir-router", "--model", CHECKPOINTS / MODEL, "--keys", self.tmp / "keys.yaml", "--audit-dir", self.tmp / "audit",
                                 "--listen", "10.77.0.1:7070", "--admin", "10.77.0.1:9070", "--dns-interval", "0.1s", *self.tls("router"),
                                 "--worker", "dns:ranks.choir.test:7100", "--worker", "10.77.0.2:7101",
                                 "--worker", "dns:extra.choir.test:7200"], self.tmp / "router.log")
        self.net.start("front", [BIN / "choir-gateway", "--router", "10.77.0.1:7070", "--listen", "10.77.0.1:8080", "--insecure", *self.tls("gateway", "--router-tls"),
                                 "--admin", "10.77.0.1:9080", "--keep-alive-interval", "0.1s"], self.tmp / "gateway.log")
        eventually(lambda: self.ready() == {"g0r0", "g0r1", "g0r2"}, 60, "three ready ranks")

    def worker(self, host, rank, port, group=0, ranks=3):
        flags = ["--group", group, "--rank", rank, "--ranks", ranks, "--leader", "leader.choir.test:7100"]
        env = {}
        if rank == 2:  # as LeaderWorkerSet says it
            flags, env = [], {"LWS_LEADER_ADDRESS": "leader.choir.test", "LWS_GROUP_SIZE": "3", "LWS_WORKER_INDEX": "2"}
        return self.net.start(host, [BIN / "choir-worker", "--model", CHECKPOINTS / MODEL, "--listen", f"0.0.0.0:{port}",
                                     "--admin", f"0.0.0.0:{port + 2000}", "--kv-bytes", "16MiB", "--threads", 1,
                                     "--heartbeat-timeout", "1s", *flags, *self.tls("worker")], self.tmp / f"worker-{group}-{rank}.log", env)

    def get(self, url):
        def do():
            try:
                return urllib.request.urlopen(url, timeout=5).read().decode()
            except urllib.error.HTTPError as e:
                return e.read().decode()
            except OSError:
                return ""
        return self.net.inside("front", do)

    def router(self):
        return json.loads(self.get("http://10.77.0.1:9070/statusz") or "{}").get("workers", [])

    def ready(self):
        return {w["worker"] for w in self.router() if w["state"] == "ready"}

    def epoch(self):
        return json.loads(self.get("http://10.77.0.2:9100/statusz"))["epoch"]

    def resumed(self):
        metrics = self.get("http://10.77.0.1:9070/metrics")
        return float(re.search(r"^choir_resumed_streams_total (\S+)", metrics, re.M).group(1))

    def stream(self, seed, on_chunk=None):
        def do():
            client = openai.OpenAI(base_url="http://10.77.0.1:8080/v1", api_key=self.key, timeout=120, max_retries=0)
            return read(client.completions.create(model=MODEL, stream=True, seed=seed, **PARAMS), on_chunk)
        return self.net.inside("front", do)

    def streams(self, meanwhile=None):
        """All seeds at once; `meanwhile` is called when all streams are under way."""
        started = threading.Barrier(len(SEEDS), action=meanwhile)
        results = {}
        threads = [threading.Thread(target=lambda s=s: results.update(
            {s: self.stream(s, lambda i: i == 5 and started.wait(60))})) for s in SEEDS]
        for t in threads:
            t.start()
        for t in threads:
            t.join(180)
        return results

    def logs(self):
        return "".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted(self.tmp.glob("*.log")))


def read(stream, on_chunk=None):
    text, finish = "", None
    for i, chunk in enumerate(stream):
        text += chunk.choices[0].text
        finish = chunk.choices[0].finish_reason or finish
        if on_chunk:
            on_chunk(i)
    return text, finish


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What a group of two ranks on one host answers."""
    cluster = Cluster(tmp_path_factory.mktemp("one_host"), model=MODEL)
    try:
        client = cluster.openai()
        return {s: read(client.completions.create(model=MODEL, stream=True, seed=s, **PARAMS)) for s in SEEDS}
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    h = Hosts(tmp_path_factory.mktemp("hosts"))
    yield h
    print(h.logs())
    h.net.stop()


def test_ranks_on_two_hosts_answer_with_the_bits_of_one_host(hosts, expected):
    assert hosts.streams() == expected


def test_a_cut_link_is_noticed_waited_for_and_healed(hosts, expected):
    epoch, resumed = hosts.epoch(), hosts.resumed()

    def cut_until_noticed():
        hosts.net.cut("right")
        eventually(lambda: "rank 2" in hosts.get("http://10.77.0.2:9100/readyz")
                   or "ranks 2" in hosts.get("http://10.77.0.2:9100/readyz"), 20, "the leader's word on rank 2")
        eventually(lambda: hosts.ready() == set(), 20, "no rank is ready")
        hosts.net.heal("right")

    assert hosts.streams(cut_until_noticed) == expected
    assert hosts.epoch() > epoch
    assert hosts.resumed() > resumed
    eventually(lambda: hosts.ready() == {"g0r0", "g0r1", "g0r2"}, what="three ready ranks")


def test_a_link_that_flaps_changes_no_byte(hosts, expected):
    def flap():
        hosts.net.cut("right")
        hosts.net.heal("right")
    assert hosts.streams(flap) == expected


def test_a_stopped_rank_is_found_and_taken_back(hosts, expected):
    # `ip netns exec` became the worker: no process is in between.
    pid = hosts.workers[2].pid

    def stop_until_noticed():
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: "ranks 2" in hosts.get("http://10.77.0.2:9100/readyz"), 20, "the leader's word on rank 2")
        os.kill(pid, signal.SIGCONT)

    assert hosts.streams(stop_until_noticed) == expected


@pytest.mark.parametrize("rank,host", [(2, "right"), (0, "left")])
def test_a_killed_rank_changes_no_byte(hosts, expected, rank, host):
    def kill():
        hosts.workers[rank].kill()
        hosts.workers[rank].wait()
        hosts.workers[rank] = hosts.worker(host, rank, 7100)
    assert hosts.streams(kill) == expected


def test_workers_join_and_leave_by_dns(hosts):
    worker = hosts.worker("right", 0, 7200, group=1, ranks=1)
    assert "g1r0" not in {w["worker"] for w in hosts.router()}
    hosts.net.names["extra.choir.test"] = ["10.77.0.3"]
    eventually(lambda: "g1r0" in hosts.ready(), 30, "the new worker")
    del hosts.net.names["extra.choir.test"]
    eventually(lambda: "10.77.0.3:7200" not in {w["address"] for w in hosts.router()}, what="the worker's leave")
    worker.kill()
