"""Two routers that count limits and keep answers in a Redis that speaks TLS only and demands certificates, which expire."""
import subprocess

import pytest
from conftest import BIN, CHECKPOINTS, eventually, held_workers
from redis_server import Redis
from test_limits import Limited, open_stream
from test_tls import Authority

CONFIG = """
router:
  redis: {{url: "{url}", ca: "{ca}", cert: "{cert}", key: "{key}", lease: 1s, timeout: 2s}}
  result_cache: {{store: redis}}
  tenants:
    pair: {{concurrency: 2}}
"""


class Shared(Limited):
    def __init__(self, tmp):
        self.authority = Authority(tmp / "pki")
        self.issue("redis")
        self.issue("client")
        self.redis = Redis(tmp, tls=(*self.files("redis"), self.authority.folder / "ca.pem"))
        cert, key = self.files("client")
        config = CONFIG.format(url=self.redis.url, ca=self.authority.folder / "ca.pem", cert=cert, key=key)
        super().__init__(tmp, config=config, extra=["--routers", "2"])
        eventually(self.both_count, what="both routers at Redis")

    def issue(self, name, days=30):
        self.authority.issue(name, name, days=days, names="IP:127.0.0.1")

    def files(self, name):
        return self.authority.folder / f"{name}.pem", self.authority.folder / f"{name}-key.pem"

    def both_count(self):
        try:
            return [self.status(router).get("limits", {}).get("replicas") for router in (0, 1)] == [2, 2] and \
                not any(self.metric(url, "choir_limit_degraded") for url in self.routers())
        except OSError:  # a router is just starting
            return False


@pytest.fixture(scope="module")
def shared_tls(tmp_path_factory):
    cluster = Shared(tmp_path_factory.mktemp("redis-tls"))
    yield cluster
    assert cluster.stop() == 0, cluster.logs()
    cluster.redis.kill()


def test_limits_are_counted_together(shared_tls):
    with held_workers(shared_tls):
        streams = [open_stream(shared_tls, "pair") for _ in range(2)]
        assert shared_tls.ask("pair").status_code == 429
        for stream in streams:
            stream.close()
    eventually(lambda: shared_tls.ask("pair").status_code == 200, what="a place")


def test_answers_are_kept(shared_tls):
    for mark in (None, "hit"):
        answer = shared_tls.ask("free", max_tokens=5, temperature=0)
        assert answer.status_code == 200 and answer.headers.get("x-choir-cache") == mark
    page = shared_tls.status()["result_cache"]
    assert page["problem"] == "", page


def test_an_expired_certificate_leaves_each_router_its_share_until_it_is_renewed(shared_tls):
    shared_tls.redis.kill()
    shared_tls.issue("redis", days=-1)
    assert shared_tls.redis.start()
    eventually(lambda: all("expired on" in shared_tls.status(router)["limits"]["reason"] for router in (0, 1)), what="the reason")
    assert shared_tls.ask("free").status_code == 200
    assert "expired on" in shared_tls.status()["result_cache"]["problem"]
    shared_tls.redis.kill()
    shared_tls.issue("redis")
    assert shared_tls.redis.start()
    eventually(shared_tls.both_count, what="both routers back")


def check(*flags, config="router: {}\n", tmp):
    (tmp / "config.yaml").write_text(config)
    (tmp / "keys.yaml").write_text("")
    return subprocess.run([BIN / "choir-router", "--config", tmp / "config.yaml", "--model", CHECKPOINTS / "tiny_glm4_moe",
                           "--keys", tmp / "keys.yaml", "--worker", "127.0.0.1:1", *flags, "--check-config"], capture_output=True, text=True)


@pytest.mark.parametrize("redis, flags, says", [
    ("{url: 'redis://:hidden@redis.example:6379'}", [], "--redis-insecure"),
    ("{url: 'redis://:hidden@redis.example:6379'}", ["--redis-insecure"], None),
    ("{url: 'redis://:hidden@redis.example:6379', insecure: true}", [], None),
    ("{url: 'redis://:hidden@127.0.0.1:6379'}", [], None),
    ("{url: 'rediss://:hidden@redis.example:6379'}", [], None),
    ("{url: 'rediss://:hidden@redis.example:6379', ca: none.pem}", [], "--redis-ca"),
    ("{url: 'rediss://:hidden@redis.example:6379'}", ["--redis-cert", "none.pem"], "give both or neither"),
    ("{url: 'redis://:hidden@127.0.0.1:6379', ca: none.pem}", [], "rediss://"),
])
def test_what_is_configured_is_checked_at_start(tmp_path, redis, flags, says):
    done = check(*flags, config=f"router:\n  redis: {redis}\n", tmp=tmp_path)
    assert "hidden" not in done.stderr
    if says is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2 and says in done.stderr
