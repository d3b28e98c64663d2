"""The issue's kills with few streams: whatever is killed, every stream completes with the content of an undisturbed run.
kill_streams.py is the same with many, and measures."""
import os
import signal

import pytest
from conftest import Cluster, eventually
from kill_streams import kill_under, of_routers
from streams import STORY, TEXT, Answer, ask, body, long_model

STREAMS = 18


@pytest.mark.parametrize("groups,routers,kill", [(2, 1, "worker"), (1, 1, "worker"), (1, 2, "router")])
def test_every_stream_completes_as_if_nothing_had_happened(tmp_path, groups, routers, kill):
    cluster = Cluster(tmp_path, model=long_model(tmp_path), groups=groups, extra=("--routers", routers))
    try:
        told = kill_under(cluster, STREAMS, kill)
        assert told["errors"] == [] and told["complete"] == told["same_content"] == STREAMS, told
        eventually(cluster.workers_idle, what="idle workers")
        assert not any(of_routers(cluster, "choir_ledger_difference"))
    finally:
        assert cluster.stop() == 0, cluster.logs()


def test_a_stopped_worker_is_found_by_its_progress(tmp_path):
    # One rank a group: nobody else would notice, and its connections stay open.
    cluster = Cluster(tmp_path, model=long_model(tmp_path), ranks=1, groups=2, config="router: {worker_stall_timeout: 2s}")
    pid = cluster.ready["pids"]["workers"][0]
    router = cluster.ready["metrics"]["router"]
    try:
        kind = (TEXT, {**STORY, "seed": 4, "max_tokens": 2000})
        want = ask(cluster, *kind)
        answer = Answer()  # the first of two idle ranks has it
        assert answer.read(cluster.url, cluster.key, "POST", TEXT, body(cluster, kind[1]), on_event=lambda n: n == 4 and os.kill(pid, signal.SIGSTOP)) == 200
        assert answer.done and answer.content() == want.content()
        assert cluster.metric(router, "choir_retries_total", cause="worker_lost") == 1
        assert cluster.metric(router, "choir_worker_state", worker="g0r0", state="ready") == 0
        os.kill(pid, signal.SIGCONT)
        eventually(lambda: cluster.metric(router, "choir_worker_state", worker="g0r0", state="ready") == 1, what="its return")
        eventually(cluster.workers_idle, what="idle workers")
    finally:
        os.kill(pid, signal.SIGCONT)
        assert cluster.stop() == 0, cluster.logs()


def test_without_a_rank_the_stream_waits_until_its_deadline_and_says_so(tmp_path):
    cluster = Cluster(tmp_path, model=long_model(tmp_path), ranks=1)
    try:
        cluster.process.send_signal(signal.SIGSTOP)  # nobody restarts what is killed
        answer = Answer()
        headers = {"x-request-timeout": "6"}
        pid = cluster.ready["pids"]["workers"][0]
        kind = {**STORY, "max_tokens": 6000}
        answer.read(cluster.url, cluster.key, "POST", TEXT, body(cluster, kind), headers=headers, on_event=lambda n: n == 4 and os.kill(pid, signal.SIGKILL))
        assert not answer.done and answer.error["type"] == "timeout", answer.error
        assert "numerics id" in answer.error["message"] and answer.times[-1] - answer.times[0] > 3
        assert answer.choices[0]["text"]
    finally:
        cluster.process.send_signal(signal.SIGCONT)
        assert cluster.stop() == 0, cluster.logs()
