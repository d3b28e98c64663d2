"""Processes are killed while streams run: the streams go on with the same text."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import threading

import openai
import pytest
from commands import add_key
from conftest import BIN, CHECKPOINTS, Cluster, eventually

PARAMS = {"prompt": "Tell me a long story", "max_tokens": 200, "temperature": 1.2, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    c = Cluster(tmp_path_factory.mktemp("survival"))
    yield c
    assert c.stop() == 0, c.logs()


def run(cluster, seed, on_chunk=None):
    stream = cluster.openai().completions.create(model=cluster.model, stream=True, seed=seed, **PARAMS)
    text, finish = "", None
    for i, chunk in enumerate(stream):
        text += chunk.choices[0].text
        finish = chunk.choices[0].finish_reason or finish
        if on_chunk:
            on_chunk(i)
    return text, finish


@pytest.mark.parametrize("rank", [0, 1])
def test_killing_a_worker_changes_no_byte(cluster, rank):
    seeds = range(4)
    undisturbed = {seed: run(cluster, seed) for seed in seeds}
    pid = cluster.ready["pids"]["workers"][rank]
    everyone_runs = threading.Barrier(len(seeds), action=lambda: os.kill(pid, signal.SIGKILL))

    def kill(i):  # once all streams are under way
        if i == 5:
            everyone_runs.wait(60)

    results = {}
    threads = [threading.Thread(target=lambda s=s: results.update({s: run(cluster, s, kill)})) for s in seeds]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    assert results == undisturbed
    eventually(lambda: cluster.ready["pids"]["workers"][rank] not in (pid, None), what="a new pid in the ready file")
    eventually(cluster.workers_idle, what="idle workers")


def test_killing_the_router_changes_no_byte(cluster):
    undisturbed = run(cluster, 11)
    pid = cluster.ready["pids"]["router"]
    assert run(cluster, 11, lambda i: i == 5 and os.kill(pid, signal.SIGKILL)) == undisturbed
    eventually(lambda: cluster.ready["pids"]["router"] not in (pid, None), what="a new router in the ready file")
    eventually(cluster.workers_idle, what="idle workers")


def test_a_worker_that_ends_with_an_error_is_restarted_like_a_killed_one(tmp_path):
    cluster = Cluster(tmp_path)
    try:
        pid = cluster.ready["pids"]["workers"][1]
        # A second signal ends a worker at once, with 1: the stream it serves is not done.
        busy = run(cluster, 11, lambda i: i == 3 and [os.kill(pid, signal.SIGTERM) for _ in range(2)])
        eventually(lambda: cluster.ready["pids"]["workers"][1] not in (pid, None), what="a new worker in the ready file")
        eventually(cluster.serves, what="a ready rank")
        assert run(cluster, 11) == busy
    finally:
        assert cluster.stop() == 0, cluster.logs()


def test_up_keeps_a_users_keys_of_any_tenant(tmp_path):
    (tmp_path / "state").mkdir()
    key = add_key(tmp_path / "state", "local")
    for _ in range(2):  # the second start takes the first one's own key away
        cluster = Cluster(tmp_path)
        assert cluster.openai(api_key=key).models.list().data
        own = cluster.key
        assert cluster.stop() == 0
    listed = subprocess.run([BIN / "choir", "keys", "list", "--file", tmp_path / "state" / "keys.yaml", "--json"], capture_output=True, text=True)
    assert len(json.loads(listed.stdout)) == 2 and own.startswith("ck-")


def test_a_draining_cluster_finishes_its_streams(tmp_path):
    c = Cluster(tmp_path)
    try:
        expected = run(c, 1)
        seen = []

        def stop(i):
            if i == 3:
                c.process.send_signal(signal.SIGTERM)
            seen.append(i)

        assert run(c, 1, stop) == expected
        assert c.process.wait(30) == 0
    finally:
        c.stop()


def test_status_tells_what_runs(cluster):
    out = subprocess.run([BIN / "choir", "status", "--state", cluster.state, "--json"], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert '"ready": true' in out.stdout


def test_status_of_a_cluster_elsewhere_goes_through_its_gateway(cluster, tmp_path):
    def status(key, *args, **env):
        return subprocess.run([BIN / "choir", "status", "--state", tmp_path, "--json", *args], capture_output=True, text=True,
                              env={**os.environ, "CHOIR_API_KEY": key, **env})
    for out in (status(cluster.key, "--url", cluster.url + "/"), status(cluster.key, CHOIR_URL=cluster.url)):
        assert out.returncode == 0, out.stderr
        told = json.loads(out.stdout)
        router = told["processes"][0]["status"]
        assert told["ready"] and [w["rank"] for w in router["workers"]] == [0, 1] and router["workers"][0]["epoch"] > 0
    refused = status("ck-wrong", "--url", cluster.url)
    assert refused.returncode == 1 and "401" in refused.stderr


def test_a_second_up_on_the_same_state_is_refused(cluster):
    out = subprocess.run([BIN / "choir", "up", "--model", pathlib.Path("/nonexistent"), "--state", cluster.state], capture_output=True, text=True)
    assert out.returncode == 1
    assert "another choir up" in out.stderr


def test_a_new_key_works_at_once_and_strangers_do_not(cluster):
    key = add_key(cluster.state, "acme")

    def accepted():
        try:
            return bool(list(cluster.openai(api_key=key).models.list()))
        except openai.AuthenticationError:
            return False

    eventually(accepted, 5, "the new key")
    with pytest.raises(openai.AuthenticationError):
        cluster.openai(api_key=key + "x").models.list()


@pytest.mark.parametrize("arguments,code,says", [
    (["--model", "/nonexistent"], 1, "/nonexistent"),
    (["--config", "worker: {kv_byte: 1GiB}"], 2, "worker.kv_bytes"),
    (["--config", "worker: {step_tokens: -3}"], 2, "out of range"),
    (["--config", "router: {audit: {class: forced}}"], 2, "audit.class"),
    (["--config", "worker: {kv_byte: 1GiB}", "--check-config"], 2, "worker.kv_bytes"),
    (["--config", "worker: {kv_bytes: 64MiB}", "--check-config"], 0, "good")])
def test_up_that_cannot_start_says_why_and_ends(tmp_path, arguments, code, says):
    arguments = list(arguments)
    if "--config" in arguments:
        at = arguments.index("--config") + 1
        (tmp_path / "c.yaml").write_text(arguments[at] + "\n")
        arguments[at] = tmp_path / "c.yaml"
    if "--model" not in arguments:
        arguments += ["--model", CHECKPOINTS / "tiny_llama"]
    command = [BIN / "choir", "up", "--state", tmp_path / "state", "--listen", "127.0.0.1:0", *arguments]
    out = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=30)
    assert out.returncode == code, out.stderr
    assert says in out.stderr


def test_up_on_a_taken_port_or_a_broken_template_ends(cluster, tmp_path):
    taken = cluster.url.removeprefix("http://")
    up = [BIN / "choir", "up", "--model", CHECKPOINTS / "tiny_llama", "--state", tmp_path / "a", "--listen", taken]
    out = subprocess.run([str(c) for c in up], capture_output=True, text=True, timeout=30)
    assert out.returncode == 1 and taken in out.stderr
    broken = tmp_path / "broken"
    shutil.copytree(CHECKPOINTS / "tiny_llama", broken)
    (broken / "chat_template.jinja").write_text("{% if %}")
    up = [BIN / "choir", "up", "--model", broken, "--state", tmp_path / "b", "--listen", "127.0.0.1:0"]
    out = subprocess.run([str(c) for c in up], capture_output=True, text=True, timeout=30)
    assert out.returncode == 1 and "chat_template.jinja" in out.stderr


def test_a_killed_up_leaves_no_process_and_status_says_so(tmp_path):
    c = Cluster(tmp_path)
    pids = [c.ready["pids"]["gateway"], c.ready["pids"]["router"], *c.ready["pids"]["workers"]]
    c.process.kill()
    c.process.wait()

    def alive(pid):
        try:
            return pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
        except FileNotFoundError:
            return False

    eventually(lambda: not any(alive(p) for p in pids), what="the children's end")
    out = subprocess.run([BIN / "choir", "status", "--state", c.state], capture_output=True, text=True)
    assert out.returncode == 1 and "is gone" in out.stderr
    c.stop()


def test_a_clean_stop_removes_the_ready_files(tmp_path):
    c = Cluster(tmp_path)
    assert c.stop() == 0
    assert not c.ready_file.exists() and not (c.state / "run.json").exists()
