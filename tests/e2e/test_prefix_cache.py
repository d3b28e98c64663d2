"""What users see of the prefix cache: usage, metrics, tenants apart, and answers that it never changes."""
import json
import urllib.request

import pytest
from commands import add_key
from conftest import Cluster, eventually

PROMPT = list(range(3, 150))  # token ids: 4 whole blocks of 32 and 19 more


def keys_file(state):
    state.mkdir(mode=0o700)
    return {tenant: add_key(state, tenant) for tenant in ("acme", "other")}


@pytest.fixture(scope="module")
def tenants(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("prefix")
    keys = keys_file(tmp / "state")
    c = Cluster(tmp, ranks=1)
    yield c, keys
    assert c.stop() == 0, c.logs()


def complete(cluster, key, prompt=PROMPT, **kwargs):
    body = {"model": cluster.model, "prompt": prompt, "max_tokens": 20, "seed": 3, "temperature": 1.0, **kwargs}
    request = urllib.request.Request(cluster.url + "/v1/completions", json.dumps(body).encode(),
                                     {"authorization": f"Bearer {key}", "content-type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))


def worker_metric(cluster, name, **labels):
    return cluster.metric(cluster.ready["metrics"]["workers"][0], name, **labels)


def check_ledger(cluster):
    eventually(cluster.workers_idle, what="idle workers")
    blocks = {s: worker_metric(cluster, "choir_kv_blocks", state=s) for s in ("free", "held", "cached")}
    assert blocks["held"] == 0 and blocks["cached"] > 0
    assert worker_metric(cluster, "choir_ledger_difference", ledger="kv_blocks") == 0
    return blocks


def test_a_hit_is_in_usage_and_metrics_and_changes_nothing(tenants):
    cluster, keys = tenants
    router = cluster.ready["metrics"]["router"]
    before = cluster.metric(router, "choir_cached_tokens_total")
    first, second = complete(cluster, keys["acme"]), complete(cluster, keys["acme"])
    assert first["choices"][0]["text"] == second["choices"][0]["text"]
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    usage = second["usage"]
    assert usage["prompt_tokens"] == len(PROMPT)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 128
    assert usage["prompt_cache_hit_tokens"] == 128
    assert usage["prompt_cache_miss_tokens"] == len(PROMPT) - 128
    assert cluster.metric(router, "choir_cached_tokens_total") - before == 128
    assert worker_metric(cluster, "choir_prefix_hit_tokens_total") >= 128
    assert worker_metric(cluster, "choir_prefix_queries_tokens_total") >= 2 * len(PROMPT)
    check_ledger(cluster)


def test_another_tenant_finds_nothing(tenants):
    cluster, keys = tenants
    mine = complete(cluster, keys["acme"])
    theirs = complete(cluster, keys["other"])
    assert theirs["usage"]["prompt_cache_hit_tokens"] == 0
    assert theirs["choices"][0]["text"] == mine["choices"][0]["text"]


def test_choices_share_the_prompt(tenants):
    cluster, keys = tenants
    prompt = PROMPT[::-1]
    hits = worker_metric(cluster, "choir_prefix_hit_tokens_total")
    answer = complete(cluster, keys["acme"], prompt, n=4)
    assert answer["usage"]["prompt_cache_hit_tokens"] == 0
    assert worker_metric(cluster, "choir_prefix_hit_tokens_total") - hits == 3 * 128
    alone = complete(cluster, keys["acme"], prompt)
    assert alone["choices"][0]["text"] == answer["choices"][0]["text"]
    assert len({c["text"] for c in answer["choices"]}) > 1


def test_the_next_turn_finds_the_answer_too(tenants):
    cluster, keys = tenants
    client = cluster.openai(api_key=keys["acme"])
    messages = [{"role": "user", "content": "Tell me about the sea. " * 8}]
    first = client.chat.completions.create(model=cluster.model, messages=messages, max_tokens=64, seed=1,
                                           extra_body={"ignore_eos": True})
    messages += [first.choices[0].message, {"role": "user", "content": "And then?"}]
    second = client.chat.completions.create(model=cluster.model, messages=messages, max_tokens=4)
    assert second.usage.prompt_tokens_details.cached_tokens >= (first.usage.prompt_tokens - 1) // 32 * 32


def test_the_experts_have_series_by_layer(tenants):
    cluster, keys = tenants
    complete(cluster, keys["acme"])
    eventually(cluster.workers_idle, what="idle workers")
    layers = [n for n in range(8) if worker_metric(cluster, "choir_expert_tokens_total", layer=str(n))]
    assert layers and 0 not in layers  # the first layer of this model is dense
    tokens = [worker_metric(cluster, "choir_expert_tokens_total", layer=str(n)) for n in layers]
    assert len(set(tokens)) == 1  # every token goes through every layer
    assert worker_metric(cluster, "choir_expert_imbalance_ratio") >= 1


def test_it_can_be_switched_off(tmp_path):
    c = Cluster(tmp_path, ranks=1, config="worker: {prefix_cache: false}\n")
    try:
        complete(c, c.key)
        assert complete(c, c.key)["usage"]["prompt_cache_hit_tokens"] == 0
        assert worker_metric(c, "choir_kv_blocks", state="cached") == 0
    finally:
        assert c.stop() == 0, c.logs()
