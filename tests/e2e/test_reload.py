"""The configuration file while it changes: limits, the policy and content rules are taken up under open streams; a broken file changes nothing."""
import threading

import pytest
from conftest import Cluster, eventually, held_workers, status_page

START = "router: {policy: {name: least_load}}\n"


@pytest.fixture
def cluster(tmp_path):
    c = Cluster(tmp_path, config=START)
    yield c
    assert c.stop() == 0


def status(cluster):
    return status_page(cluster.ready["metrics"]["router"])


def good(cluster):
    return cluster.metric(cluster.ready["metrics"]["router"], "choir_config_reload_success")


def text(cluster, prompt="hello", **fields):
    return cluster.openai().completions.create(model=cluster.model, prompt=prompt, max_tokens=30, seed=3, **fields).choices[0].text


def test_policy_and_content_rules_are_taken_up_under_an_open_stream(cluster, tmp_path):
    file = tmp_path / "config.yaml"
    plain = text(cluster)
    assert set(plain) & set("abcdefghijklm")
    chunks, ended = [], threading.Event()

    def stream():
        for chunk in cluster.openai().completions.create(model=cluster.model, prompt="hello", max_tokens=30, seed=3, stream=True):
            chunks.append(chunk.choices[0].text if chunk.choices else "")
        ended.set()

    with held_workers(cluster):
        thread = threading.Thread(target=stream)
        thread.start()
        eventually(lambda: status(cluster)["requests"]["running"] == 1, what="the stream")
        file.write_text("router:\n  policy: {name: prefix_affinity}\n  content_rules: [{name: letters, pattern: '[a-m]', on: output, with: '*'}]\n")
        eventually(lambda: status(cluster)["policy"]["name"] == "prefix_affinity", what="the new policy")
    thread.join()
    assert ended.is_set() and "".join(chunks) == plain  # it began under the old rules
    filtered = text(cluster)
    assert not set(filtered) & set("abcdefghijklm") and "*" in filtered
    file.write_text(START)
    eventually(lambda: status(cluster)["policy"]["name"] == "least_load", what="the old policy")
    assert text(cluster) == plain


def test_a_key_that_only_a_start_takes_up_is_named(cluster, tmp_path):
    file = tmp_path / "config.yaml"
    assert status(cluster)["config"] == {"next_start": []}
    file.write_text("router: {policy: {name: power_of_two}, retry: {min: 7}, max_requests: 999}\n")
    eventually(lambda: status(cluster)["policy"]["name"] == "power_of_two", what="the new policy")
    assert status(cluster)["config"] == {"next_start": ["router.max_requests", "router.retry.min"]}
    assert "taken up at the next start only: router.max_requests, router.retry.min" in cluster.logs()
    file.write_text(START)
    eventually(lambda: status(cluster)["config"] == {"next_start": []}, what="the old file")


@pytest.mark.parametrize("broken", ["router: {policy: {name: best}}", "router: {content_rules: [{name: a, pattern: 'a+'}]}",
                                    "router: {tenants: {a: {request: 1}}}", "router: {nonsense: 1}", "router: [", "other: 1", ""])
def test_a_broken_file_changes_nothing(cluster, tmp_path, broken):
    file = tmp_path / "config.yaml"
    assert good(cluster) == 1
    file.write_text("router: {policy: {name: power_of_two}}")
    eventually(lambda: status(cluster)["policy"]["name"] == "power_of_two", what="the new policy")
    file.write_text(broken)
    eventually(lambda: good(cluster) == 0, what="the file is seen to be broken")
    assert status(cluster)["policy"]["name"] == "power_of_two" and text(cluster)
    assert "stays in force" in cluster.logs()
    file.write_text(START)
    eventually(lambda: good(cluster) == 1 and status(cluster)["policy"]["name"] == "least_load", what="the good file")
