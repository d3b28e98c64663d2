"""Two routers that count limits together in a real Redis, which dies and hangs; routers that die. Counted from outside."""
import os
import signal
import threading
import time

import grpc
import openai
import pytest
from conftest import eventually, held_workers
from redis_server import Redis
from test_grpc import pb  # noqa: F401 (a fixture)
from test_limits import Limited, check_not_over, check_rate, open_stream

CONFIG = """
router:
  redis: {{url: "{url}", lease: 1s, timeout: 2s}}
  tenants:
    rate: {{requests_per_second: 5, burst: 5}}
    pair: {{concurrency: 2}}
    minute: {{tokens_per_minute: 1000}}
    day: {{tokens_per_day: 50000}}
"""


class Shared(Limited):
    """Both routers, asked over gRPC."""

    def __init__(self, tmp, pb):
        self.redis = Redis(tmp)
        super().__init__(tmp, config=CONFIG.format(url=self.redis.url), extra=["--routers", "2"])
        self.pb = pb
        eventually(self.both_count, what="both routers at Redis")

    def degraded(self):
        return [self.metric(url, "choir_limit_degraded") for url in self.routers()]

    def both_count(self):
        try:
            replicas = [self.status(router).get("limits", {}).get("replicas") for router in (0, 1)]
            return self.degraded() == [0, 0] and replicas == [2, 2]
        except OSError:  # a router is just starting
            return False

    def call(self, router, tenant, stub=None, max_tokens=1):
        """The code of one call, as HTTP has it, and its error."""
        messages, stubs = self.pb
        stub = stub or stubs.InferenceStub(grpc.insecure_channel(self.ready["routers"][router]))
        request = messages.GenerateRequest(model=self.model, prompt="hi", sampling=messages.Sampling(max_tokens=max_tokens, ignore_eos=True))
        try:
            list(stub.Generate(request, metadata=[("authorization", f"Bearer {self.keys[tenant]}")], timeout=60))
            return 200, None
        except grpc.RpcError as error:
            return {grpc.StatusCode.RESOURCE_EXHAUSTED: 429}.get(error.code(), error.code()), error

    def hammer(self, tenant, until):
        """Asks both routers from two threads each; (asked, answered, code) of all."""
        answers = []

        def ask(router):
            stub = self.pb[1].InferenceStub(grpc.insecure_channel(self.ready["routers"][router]))
            while not until():
                asked = time.monotonic()
                code, _ = self.call(router, tenant, stub)
                answers.append((asked, time.monotonic(), code))

        threads = [threading.Thread(target=ask, args=(i % 2,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers


@pytest.fixture(scope="module")
def shared_limits(tmp_path_factory, pb):  # noqa: F811
    c = Shared(tmp_path_factory.mktemp("shared_limits"), pb)
    yield c
    assert c.ledgers() == [0, 0]
    assert c.stop() == 0, c.logs()
    c.redis.kill()


def seconds_from_now(seconds):
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def test_two_routers_hold_one_rate(shared_limits):
    """Complaint 25: a limiter that is silently per process lets through twice as much."""
    good, refused = check_rate(shared_limits.hammer("rate", seconds_from_now(4)), burst=5, rate=5)
    assert good >= 5 and refused > 0


def test_two_routers_share_places(shared_limits):
    for _ in range(2):
        with held_workers(shared_limits):
            streams = [open_stream(shared_limits, "pair") for _ in range(2)]
            for router in (0, 1):
                code, error = shared_limits.call(router, "pair")
                assert code == 429 and "2 requests" in error.details()
                details = dict(error.trailing_metadata())["grpc-status-details-bin"]
                assert b"google.rpc.RetryInfo" in details and b"concurrency" in details
            for stream in streams:
                stream.close()
        for router in (0, 1):
            eventually(lambda: shared_limits.call(router, "pair")[0] == 200, what="a place")


def test_a_place_is_kept_for_longer_than_the_lease(shared_limits):
    """Complaint 18: what takes long is not what was left behind."""
    with held_workers(shared_limits):
        streams = [open_stream(shared_limits, "pair") for _ in range(2)]
        over = seconds_from_now(3.5)  # leases
        while not over():
            assert [shared_limits.call(router, "pair")[0] for router in (0, 1)] == [429, 429]
        for stream in streams:
            stream.close()
    for router in (0, 1):
        eventually(lambda: shared_limits.call(router, "pair")[0] == 200, what="a place")


def test_two_routers_share_tokens(shared_limits):
    used = 0
    for i in range(100):
        code, _ = shared_limits.call(i % 2, "minute", max_tokens=100)
        if code == 429:
            break
        used += 100
    assert code == 429 and used <= 1000 + 500  # with what came back meanwhile: half a minute's at most
    assert shared_limits.status()["ledgers"]["limit_tokens"]["difference"] == 0


def test_redis_dies_and_comes_back(shared_limits):
    threading.Event().wait(1.2)  # what was used before is refilled: both routers' shares begin full
    phase, lock = {"restart_at": time.monotonic() + 2, "restarted": False}, threading.Lock()
    shared_limits.redis.kill()
    eventually(lambda: shared_limits.degraded() == [1, 1], what="both routers degraded")
    assert "share" in shared_limits.logs()

    def until():
        with lock:  # four threads ask
            if not phase["restarted"] and time.monotonic() > phase["restart_at"]:
                phase["restarted"] = True
                assert shared_limits.redis.start()
                phase["end"] = seconds_from_now(3)
            return "end" in phase and phase["end"]()

    answers = shared_limits.hammer("rate", until)
    eventually(lambda: shared_limits.degraded() == [0, 0], what="both routers back")
    # While one router is back and the other one is not, its share may be used once more.
    good = [a for a in answers if a[2] == 200]
    took = max(end for _, end, _ in answers) - min(start for start, _, _ in answers)
    assert {code for _, _, code in answers} <= {200, 429}
    assert 5 <= len(good) <= 5 + 5 * took + 2.5
    assert shared_limits.ledgers() == [0, 0]
    assert check_not_over(shared_limits.hammer("rate", seconds_from_now(2)), burst=5, rate=5)


def test_redis_hangs(shared_limits):
    """Nobody waits longer than the time limit, and what ran before ends well."""
    shared_limits.redis.pause()
    assert shared_limits.call(0, "day")[0] == 200
    assert shared_limits.call(1, "day")[0] == 200
    eventually(lambda: shared_limits.degraded() == [1, 1], what="both routers degraded")
    shared_limits.redis.resume()
    eventually(lambda: shared_limits.degraded() == [0, 0], what="both routers back")
    assert shared_limits.call(0, "day")[0] == 200


def test_a_killed_router_leaks_nothing_and_its_streams_go_on(shared_limits):
    """Complaints 24 and 29: places and reservations of a dead process come back."""
    for tenant in ("pair", "day"):
        with held_workers(shared_limits):
            streams = [open_stream(shared_limits, tenant) for _ in range(2)]
            if tenant == "pair":
                assert shared_limits.ask(tenant).status_code == 429
            pids = shared_limits.ready["pids"]["routers"]
            running = [shared_limits.metric(url, "choir_requests_inflight") for url in shared_limits.routers()]
            os.kill(pids[running.index(max(running))], signal.SIGKILL)
        for stream in streams:
            assert sum(len(chunk.choices[0].text) > 0 for chunk in stream) > 0
        eventually(shared_limits.both_count, 60, "both routers back")

        def both():
            opened = []
            try:
                for _ in range(2):
                    opened.append(open_stream(shared_limits, tenant))
            except openai.APIStatusError as error:
                assert error.status_code == 429  # a place of the dead router is not free yet
            for stream in opened:
                stream.close()
            return len(opened) == 2

        with held_workers(shared_limits):
            eventually(both, what="both places")
    eventually(lambda: shared_limits.status()["ledgers"]["limit_tokens"]["outstanding"] == 0, what="the end of all")
