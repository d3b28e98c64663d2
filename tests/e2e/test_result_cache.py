"""Answers to repeated questions: the same bytes without computing, marked, per tenant, and only where nothing is drawn."""
import json

import pytest
from commands import add_key, audit_records, check_router_config
from conftest import Cluster, eventually
from wire import call, events

CONFIG = """
router:
  result_cache: {store: memory, time: 1h}
  tenants:
    small: {tokens_per_day: 60}
"""


@pytest.fixture(scope="module")
def caching(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("caching"), config=CONFIG)
    yield cluster
    eventually(cluster.workers_idle, what="idle workers")
    assert cluster.stop() == 0


def ask(cluster, key=None, headers=(), **fields):
    fields = {"prompt": "again", "max_tokens": 20, "temperature": 0, "ignore_eos": True, **fields}
    status, got, body = call(cluster, "/v1/completions", fields, headers=headers, key=key)
    assert status == 200, body
    return got.get("x-choir-cache"), got, body


def new_key(cluster, tenant):
    key = add_key(cluster.state, tenant)
    eventually(lambda: call(cluster, "/v1/models", method="GET", key=key)[0] == 200, what="the key")
    return key


def content(body):
    answer = json.loads(body)
    return [(c["text"], c["finish_reason"]) for c in answer["choices"]]


def computed(cluster):
    return sum(cluster.metric(u, "choir_step_tokens_sum") for u in cluster.ready["metrics"]["workers"])


def records(cluster, phase):
    return audit_records(cluster.state / "audit", "--phase", phase)


def test_a_repeated_question_has_its_answer_without_computing(caching):
    mark, _, first = ask(caching, prompt="one")
    assert mark is None
    eventually(caching.workers_idle, what="idle workers")
    before = computed(caching)
    mark, headers, second = ask(caching, prompt="one")
    assert mark == "hit" and content(second) == content(first)
    usage = json.loads(second)["usage"]
    assert usage["completion_tokens"] == 20 and usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"]
    assert computed(caching) == before
    record = next(r for r in records(caching, "outcome") if r["request_id"] == headers["x-request-id"])
    assert record["result_cache"] == "hit" and record["workers"] == [] and record["output_tokens"] == 20
    assert record["output_digest"] == [r for r in records(caching, "outcome") if "result_cache" not in r][-1]["output_digest"]
    router = caching.ready["metrics"]["router"]
    assert caching.metric(router, "choir_result_cache_requests_total", result="hit") >= 1
    assert caching.metric(router, "choir_result_cache_bytes") > 0


def test_streams_choices_and_stop_strings_too(caching):
    for fields in ({"stream": True}, {"n": 3, "temperature": 1, "seed": 5}, {"temperature": 1, "seed": 5, "stop": ["e"]}):
        first = ask(caching, prompt="two", **fields)
        second = ask(caching, prompt="two", **fields)
        assert (first[0], second[0]) == (None, "hit")
        if "stream" in fields:
            text = lambda body: "".join(c["text"] for e in events(body) for c in e["choices"])
            assert text(first[2]) == text(second[2])
        else:
            assert content(first[2]) == content(second[2])


@pytest.mark.parametrize("fields", [{"temperature": 1}, {"logprobs": 1}, {"seed": 1, "temperature": 1, "logprobs": 0}])
def test_what_is_drawn_or_not_kept_is_computed(caching, fields):
    for _ in range(2):
        assert ask(caching, prompt="three", **fields)[0] is None


def test_other_parameters_are_other_questions(caching):
    ask(caching, prompt="four")
    for fields in ({"max_tokens": 21}, {"n": 2}, {"stop": ["zzz"]}, {"presence_penalty": 0.5}, {"logit_bias": {"5": 1}}):
        assert ask(caching, prompt="four", **fields)[0] is None
    assert ask(caching, prompt="four", seed=9)[0] == "hit"  # greedy: nothing is drawn


def test_who_wants_none_gets_none_and_leaves_none(caching):
    for headers in ([("Cache-Control", "no-cache")], [("cache-control", "max-age=0, no-store")]):
        assert ask(caching, prompt="five", headers=headers)[0] is None
    assert ask(caching, prompt="five")[0] is None
    assert ask(caching, prompt="five", headers=[("Cache-Control", "no-cache")])[0] is None
    assert ask(caching, prompt="five")[0] == "hit"


def test_one_tenant_does_not_feel_what_another_asked(caching):
    ask(caching, prompt="six")
    assert ask(caching, prompt="six", key=new_key(caching, "other"))[0] is None


def test_an_answer_from_before_uses_no_tokens(caching):
    key = new_key(caching, "small")
    assert ask(caching, prompt="7", key=key)[0] is None
    for _ in range(10):  # together far beyond the day's tokens
        assert ask(caching, prompt="7", key=key)[0] == "hit"


def test_batches_are_marked_when_all_of_them_are_known(caching):
    ask(caching, prompt=["eight", "nine"])
    assert ask(caching, prompt=["eight", "nine"])[0] == "hit"
    assert ask(caching, prompt=["eight", "ten"])[0] is None


def test_redis_needs_its_address(tmp_path):
    run = check_router_config(tmp_path, "router: {result_cache: {store: redis}}\n")
    assert run.returncode == 2 and "result_cache.store: redis needs router.redis.url" in run.stderr
