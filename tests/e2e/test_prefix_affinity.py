"""Prefix affinity over two groups of real workers: prompts that begin alike go where that is cached, others spread, and when
the worker that has it is killed another one gives the same bytes."""
import concurrent.futures
import json
import os
import signal

import pytest
from conftest import Cluster, eventually, held_workers
from wire import call

PREFIX = 160  # tokens: five whole blocks
CONFIG = "router: {policy: {name: prefix_affinity}}\n"


def prompt(prefix, tail):
    """Token ids: what requests of one prefix share, and 16 that are this one's."""
    ids = [3 + (prefix * 31 + i * 7) % 90 for i in range(PREFIX)] + [3 + (tail * 13 + i * 5) % 90 for i in range(16)]
    return ids


@pytest.fixture
def groups(tmp_path):
    c = Cluster(tmp_path, ranks=1, groups=2, config=CONFIG)
    eventually(lambda: len(candidates(c)) == 2, what="two ranks")
    yield c
    assert c.stop() == 0, c.logs()


def post(cluster, path, **fields):
    status, _, answer = call(cluster, path, fields)
    assert status == 200, answer
    return json.loads(answer)


def route(cluster, prefix=0, tail=0):
    return post(cluster, "/v1/choir/route", prompt=prompt(prefix, tail), max_tokens=1)


def candidates(cluster):
    """The ranks that take work, by name."""
    return {r["worker"]: r for r in route(cluster)["ranks"] if "excluded" not in r}


def ask(cluster, prefix, tail):
    """The text and how much of the prompt was cached, once no rank has anything left to do."""
    answer = post(cluster, "/v1/completions", prompt=prompt(prefix, tail), max_tokens=12, seed=5, temperature=1.0, ignore_eos=True)
    eventually(lambda: all(rank["load"] == 0 for rank in candidates(cluster).values()), what="idle ranks")
    return answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def counts(cluster):
    router = cluster.ready["metrics"]["router"]
    series = {"prefix": ("choir_route_total", {"reason": "prefix"}), "agreed": ("choir_route_predictions_total", {"result": "agreed"}),
              "differed": ("choir_route_predictions_total", {"result": "differed"})}
    series |= {kind: ("choir_route_prefix_tokens_total", {"kind": kind}) for kind in ("predicted", "cached", "missing")}
    return {name: cluster.metric(router, metric, **labels) for name, (metric, labels) in series.items()}


def computed(cluster):
    """Tokens, by worker."""
    return [cluster.metric(u, "choir_step_tokens_sum") for u in cluster.ready["metrics"]["workers"]]


def grew(before, after):
    return [i for i, (a, b) in enumerate(zip(before, after)) if b > a]


def test_prompts_that_begin_alike_go_where_that_is_cached(groups):
    before, had = counts(groups), computed(groups)
    _, cached = ask(groups, 0, 0)
    assert cached == 0
    holder = grew(had, computed(groups))
    assert len(holder) == 1
    for tail in range(1, 7):
        page, had = route(groups, 0, tail), computed(groups)
        assert page["policy"] == "prefix_affinity" and page["reason"] == "prefix"
        assert next(r for r in page["ranks"] if r["picked"])["overlap_tokens"] == PREFIX
        assert ask(groups, 0, tail)[1] == PREFIX
        assert grew(had, computed(groups)) == holder
    after = {name: value - before[name] for name, value in counts(groups).items()}
    assert after == {"prefix": 6, "agreed": 7, "differed": 0, "predicted": 6 * PREFIX, "cached": 6 * PREFIX, "missing": 0}


def test_prompts_that_begin_otherwise_spread(groups):
    had = computed(groups)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        with held_workers(groups):
            asked = [pool.submit(post, groups, "/v1/completions", prompt=prompt(10 + i, 0), max_tokens=4) for i in range(8)]
            router = groups.ready["metrics"]["router"]
            eventually(lambda: groups.metric(router, "choir_route_total") == 8, what="eight placed sequences")
            loads = [rank["load"] for rank in candidates(groups).values()]
        for future in asked:
            future.result()
    assert loads[0] == loads[1] > 0
    assert grew(had, computed(groups)) == [0, 1]
    for i in range(8):  # each stays where it is
        assert ask(groups, 10 + i, 1)[1] == PREFIX


def test_when_the_holder_is_killed_another_gives_the_same_bytes(groups):
    had = computed(groups)
    text, _ = ask(groups, 0, 1)
    assert ask(groups, 0, 1)[0] == text
    holder, = grew(had, computed(groups))
    name = route(groups, 0, 1)["worker"]
    pid = groups.ready["pids"]["workers"][holder]
    os.kill(pid, signal.SIGKILL)
    there, cached = ask(groups, 0, 1)
    assert there == text and cached == 0
    eventually(lambda: groups.ready["pids"]["workers"][holder] not in (pid, None) and name in candidates(groups), what="the worker, back")
    page = route(groups, 0, 2)
    assert page["worker"] != name and page["reason"] == "prefix"  # what the dead one had is forgotten
    assert next(r for r in page["ranks"] if r["worker"] == name)["overlap_tokens"] == 0
    assert ask(groups, 0, 1) == (text, PREFIX)
    assert counts(groups)["missing"] == 0
