"""Streams of many kinds, and a process killed under them with SIGKILL: how many complete with the content of an undisturbed run,
and how long they stood still. As a test (test_kills.py) with few, as a command with the issue's figures:

    build/venv/bin/python tests/e2e/kill_streams.py --streams 100 --groups 2 --ranks 2 --routers 2 --kill worker|router [--json]
"""
import argparse
import json
import os
import pathlib
import signal
import statistics
import tempfile
import threading
import time

from conftest import Cluster
from streams import CHAT, KINDS, TALK, ask_all, long_model

EVENTS_BEFORE_KILL = 6
THINKING = (CHAT, {**TALK, "chat_template_kwargs": {"open_think": True}})


def kinds(count, tokens):
    """`count` requests, each with its own seed: n, stop strings, logprobs, reasoning, chat and text."""
    mix = [*KINDS, THINKING]
    return [(mix[i % len(mix)][0], {**mix[i % len(mix)][1], "seed": 1000 + i, "max_tokens": tokens}) for i in range(count)]


def run(cluster, requests, on_all_running=None):
    """The answers to all, asked at once; `on_all_running` is called when each has had some events. Nobody waits for it."""
    lock = threading.Lock()
    missing = [len(requests)]

    def count(n):
        if n != EVENTS_BEFORE_KILL or on_all_running is None:
            return
        with lock:
            missing[0] -= 1
            if missing[0] == 0:
                on_all_running()

    return ask_all(cluster, requests, on_event=count)


def victim(cluster, kind):
    """The pid to kill: the first worker, or the router that the gateway uses."""
    pids = cluster.ready["pids"]
    if kind == "worker":
        return pids["workers"][0]
    metrics = cluster.ready["metrics"].get("routers") or [cluster.ready["metrics"]["router"]]
    used = max(range(len(metrics)), key=lambda r: cluster.metric(metrics[r], "choir_audit_records_total", phase="intent"))
    return (pids.get("routers") or [pids["router"]])[used]


def of_routers(cluster, name):
    """The metric of each router; 0 for one that was killed and does not answer yet."""
    metrics, values = cluster.ready["metrics"], []
    for url in metrics.get("routers") or [metrics["router"]]:
        try:
            values.append(cluster.metric(url, name))
        except OSError:
            values.append(0)
    return values


def kill_under(cluster, streams, kind, tokens=300):
    requests = kinds(streams, tokens)
    want = run(cluster, requests)
    pid = victim(cluster, kind)
    killed = []

    def kill():
        os.kill(pid, signal.SIGKILL)
        killed.append(time.monotonic())

    got = run(cluster, requests, kill)
    same = sum(a.done and a.content() == b.content() for a, b in zip(got, want))
    # The longest that each stream stood still; what was not on the victim hardly did.
    pauses = [longest_gap(a, killed[0]) for a in got if a.times[-1] > killed[0]]
    return {"streams": streams, "killed": kind, "complete": sum(a.done for a in got), "same_content": same,
            "running_at_the_kill": len(pauses), "went_on": int(sum(of_routers(cluster, "choir_resumed_streams_total"))), "pause_s": summary(pauses),
            "longest_gap_undisturbed_s": summary([longest_gap(w, 0) for w in want]), "errors": [a.error for a in got if a.error]}


def longest_gap(answer, since):
    return max((b - a for a, b in zip(answer.times, answer.times[1:]) if b > since), default=0)


def summary(seconds):
    return {"median": round(statistics.median(seconds), 3), "max": round(max(seconds), 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--routers", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--kill", choices=["worker", "router"], default="worker")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        cluster = Cluster(pathlib.Path(tmp), model=long_model(pathlib.Path(tmp)), ranks=options.ranks, groups=options.groups,
                          extra=("--routers", options.routers))
        try:
            print(json.dumps({"groups": options.groups, "ranks": options.ranks, "routers": options.routers,
                              **kill_under(cluster, options.streams, options.kill, options.tokens)}))
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
