#!/usr/bin/env python3
"""Whole clusters of processes whose ranks share one card: the same bytes of text and log probabilities on 1, 2 and 4 ranks,
on 2 whose rows go by NCCL, and of a stream whose rank is killed in the middle, with the time that it stood still. Python's own
library only.

    tools/gpu/processes.py --bin build/release/bin --out OUT [--model DIR] [--ranks 1,2,4] [--tokens 200] [--seconds 90] [--small]

Writes OUT/processes.json after every cluster. Exit codes: 0 all passed, 1 something failed or had no time left."""
import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

START_SECONDS = 60
STREAM_SECONDS = 60
EVENTS_BEFORE_KILL = 3
CLUSTER_SECONDS = 8  # less than that is no time to begin with one
NCCL_TOKENS = 24  # ranks that share a card by NCCL wait for each other's turn at every exchange
PROMPTS = ["Once", "Z", "The cluster sings in", "0123456789 " * 6]


class Failed(Exception):
    """What is said of a section that did not pass."""


class NoNccl(Exception):
    """Why there is none here."""


class Terminated(Exception):
    """By whoever started this: clusters still end."""


class Cluster:
    """One `choir up` until `with` ends."""

    live = []

    def __init__(self, options, ranks, folder, exchange="auto", settings=""):
        self.options, self.ranks, self.folder, self.exchange, self.settings = options, ranks, folder, exchange, settings

    def __enter__(self):
        self.folder.mkdir()
        (self.folder / "config.yaml").write_text(f"worker:\n  device: {self.options.device}\n  kv_bytes: 256MiB\n"
                                                 f"  device_exchange: {self.exchange}\n"
                                                 f"  cuda_kernels: {self.options.kernels}\n" + self.settings)
        ready = self.folder / "ready.json"
        command = [self.options.bin / "choir", "up", "--model", self.options.model, "--ranks", self.ranks, "--listen", "127.0.0.1:0",
                   "--state", self.folder / "state", "--ready-file", ready, "--config", self.folder / "config.yaml"]
        with open(self.folder / "up.log", "wb") as log:
            self.process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, env=self.options.environment)
        self.live.append(self.process)
        end = time.monotonic() + START_SECONDS
        self.ready_file = ready
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise Failed(f"{self.ranks} ranks: the cluster did not start:\n{self.logs()}")
            if self.exchange == "nccl" and (why := self.why_no_nccl()):
                self.__exit__()
                raise NoNccl(why)
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        self.live.remove(self.process)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @property
    def ready(self):
        return json.loads(self.ready_file.read_text())

    def logs(self):
        files = [self.folder / "up.log", *sorted((self.folder / "state" / "log").glob("*.log"))]
        return "".join(f"== {f.name}\n{f.read_text()[-1500:]}" for f in files if f.exists())

    def why_no_nccl(self):
        found = re.search(r"nccl of rank \d+ cannot be had: ([^\n\"]*)", self.logs())
        return found and found.group(1)

    def computes_on(self):
        """What the workers say they compute with."""
        lines = [line for line in self.logs().splitlines() if "is loaded:" in line]
        return lines[0].split("is loaded:")[1].split('"')[0].strip() if lines else "not said"


class Answer:
    """A streamed completion: what it says, and when its events came."""

    def __init__(self):
        self.text, self.logprobs, self.finish, self.done, self.error = "", [], None, False, None
        self.times = []

    def read(self, cluster, request, on_event=lambda n: None):
        ready = cluster.ready
        place = urllib.parse.urlsplit(ready["url"])
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=STREAM_SECONDS)
        try:
            connection.request("POST", "/v1/completions", json.dumps(request), {"authorization": f"Bearer {ready['api_key']}"})
            response = connection.getresponse()
            if response.status != 200:
                self.error = response.read().decode()[:300]
                return self
            for line in response:
                if line.startswith(b"data: "):
                    self.take(line[6:].decode().strip())
                    on_event(len(self.times))
        except (OSError, http.client.HTTPException) as error:
            self.error = f"{type(error).__name__}: {error}"
        finally:
            connection.close()
        return self

    def take(self, data):
        self.times.append(time.monotonic())
        if data == "[DONE]":
            self.done = True
            return
        event = json.loads(data)
        self.error = event.get("error", self.error)
        for choice in event.get("choices", []):
            self.text += choice.get("text", "")
            logprobs = choice.get("logprobs") or {}
            self.logprobs += zip(logprobs.get("tokens", []), logprobs.get("token_logprobs", []))
            self.finish = choice.get("finish_reason") or self.finish

    def content(self):
        return self.text, self.logprobs, self.finish

    def pause_since(self, then):
        """The longest time without an event of those that came after `then`."""
        return max((b - a for a, b in zip(self.times, self.times[1:]) if b > then), default=0.0)


def requests(options, tokens=None):
    """Greedy and drawn, with log probabilities (sampled by the host) and without (by the device)."""
    return [{"model": options.model.name, "prompt": prompt, "max_tokens": tokens or options.tokens, "stream": True, "ignore_eos": True,
             "temperature": 0 if i % 2 else 0.9, "seed": 7 + i, **({"logprobs": 2} if i < options.prompts // 2 else {})}
            for i, prompt in enumerate(PROMPTS[:options.prompts])]


def ask_all(cluster, options, tokens=None):
    """The answers to all, asked at once."""
    with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = list(pool.map(lambda r: Answer().read(cluster, r), requests(options, tokens)))
    for i, answer in enumerate(answers):
        if not answer.done or answer.error:
            raise Failed(f"{cluster.ranks} ranks: answer {i} did not complete: {answer.error}\n{cluster.logs()}")
    return answers


def compare(got, want, what):
    for i, (a, b) in enumerate(zip(got, want)):
        if a.content() != b.content():
            at = next((j for j, (x, y) in enumerate(zip(a.text, b.text)) if x != y), min(len(a.text), len(b.text)))
            raise Failed(f"{what}: answer {i} differs: texts of {len(a.text)} and {len(b.text)} characters, first at {at}; "
                         f"log probabilities {'differ' if a.logprobs != b.logprobs else 'agree'}")


def kill_under(cluster, options, want):
    """Kills the last rank in the middle of all streams; each goes on with the same bytes. Seconds that the longest stood still."""
    lock, missing, killed = threading.Lock(), [len(want)], []

    def count(n):
        if n != EVENTS_BEFORE_KILL:
            return
        with lock:
            missing[0] -= 1
            if missing[0] == 0:
                os.kill(cluster.ready["pids"]["workers"][-1], signal.SIGKILL)
                killed.append(time.monotonic())

    with concurrent.futures.ThreadPoolExecutor(len(want)) as pool:
        got = list(pool.map(lambda r: Answer().read(cluster, r, count), requests(options)))
    if not killed:
        raise Failed(f"{cluster.ranks} ranks: streams ended before a rank could be killed; give more --tokens")
    for i, answer in enumerate(got):
        if not answer.done or answer.error:
            raise Failed(f"{cluster.ranks} ranks, one killed: stream {i} did not complete: {answer.error}\n{cluster.logs()}")
    compare(got, want, f"{cluster.ranks} ranks, one killed")
    return max(answer.pause_since(killed[0]) for answer in got)


def tell(options, result, line):
    """Keeps it, too, in a file that is whole at any time."""
    result["lines"].append(line if options.kernels == "auto" else f"kernels {options.kernels}: {line}")
    fresh = options.out / f"{options.part}.json.new"
    fresh.write_text(json.dumps(result, indent=1))
    fresh.rename(options.out / f"{options.part}.json")
    print(line, flush=True)


def late(options, result, what):
    if time.monotonic() + (0 if options.small else CLUSTER_SECONDS) < options.end:
        return False
    result["left_out"] = True
    tell(options, result, f"{what}: left out: no time left")
    return True


def play(options, folder, result):
    want = None
    for ranks in options.ranks:
        if late(options, result, f"{ranks} rank{'s' if ranks > 1 else ''} on one card"):
            continue
        begin = time.monotonic()
        with Cluster(options, ranks, folder / f"ranks{ranks}") as cluster:
            ready = time.monotonic()
            answers = ask_all(cluster, options)
            seconds = time.monotonic() - ready
            if want is None:
                want, result["computes_on"] = answers, cluster.computes_on()
            compare(answers, want, f"{ranks} ranks against {options.ranks[0]}")
            said = f"{ranks} rank{'s' if ranks > 1 else ''} on one card: {len(answers)} streams of {options.tokens} tokens in {seconds:.1f} s " \
                   f"(ready in {ready - begin:.1f} s)" + (", the same bytes of text and log probabilities" if ranks != options.ranks[0] else "")
            run = {"ranks": ranks, "ready_s": ready - begin, "streams_s": seconds}
            if ranks > 1 and ranks in options.kill:
                run["pause_s"] = kill_under(cluster, options, want)
                said += f"; a rank killed in mid-stream: the same bytes, at most {run['pause_s']:.2f} s without an event"
            result["runs"].append(run)
            tell(options, result, said)


# How rows of ranks by NCCL are planned, and what makes workers do so.
NCCL_WAYS = [("cards", ", planned by the cards", ""),
             ("hosts", ", planned by the hosts", "  slot_output_bytes: 0\n"),
             ("micro", ", in two micro-batches", "  slot_rows: 0\n  micro_batch_rows: 2\n")]


def play_nccl(options, folder, result):
    """One card has more than one rank by sockets only: the way is what is checked, not its speed."""
    ranks, tokens, want = options.nccl, min(options.tokens, NCCL_TOKENS), None
    if late(options, result, f"{ranks} ranks whose rows go by NCCL"):
        return
    with Cluster(options, 1, folder / "alone") as cluster:
        want = ask_all(cluster, options, tokens)
    for name, how, settings in NCCL_WAYS:
        what = f"{ranks} ranks whose rows go by NCCL{how}"
        if late(options, result, what):
            continue
        try:
            with Cluster(options, ranks, folder / name, "nccl", settings) as cluster:
                compare(ask_all(cluster, options, tokens), want, f"{what} against 1")
            tell(options, result, f"{what}: the same bytes of text and log probabilities")
        except NoNccl as why:
            tell(options, result, f"{what}: left out: {why}")


# Attention that Hopper's own MLA kernel computes: latents of 512 + 64 columns, heads by 64 (kernels/cuda/hopper/mla_attention.cuh).
HOPPER_MLA = "--family deepseek_v3 --heads 64 --kv-lora 512 --rope-dim 64"
# Else a small one with everything that DeepSeek-V3 has: a latent of queries, groups, a shared expert, FP8 in whole blocks.
SHAPE = f"{HOPPER_MLA} --dtype fp8 --context 2048"
# On an emulated card all else is tiny.
SMALL_SHAPE = f"{HOPPER_MLA} --nope-dim 8 --v-dim 8 --q-lora 16 --hidden 32 --layers 1 --ffn 32 --moe-ffn 16 --experts 4 --top-k 2 --groups 1 " \
              "--topk-groups 1 --context 128"


def make_model(options, folder):
    model = folder / "random"
    shape = (SMALL_SHAPE if options.small else SHAPE).split()
    made = subprocess.run([str(options.bin / "choir"), "model", "random", "--out", str(model), *shape], env=options.environment,
                          capture_output=True, text=True, timeout=60)
    if made.returncode != 0:
        raise Failed(f"no model: {made.stderr}")
    return model


def numbers(text):
    return [int(n) for n in text.split(",") if n]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--part", default="processes", help="the name of the file in OUT")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--ranks", type=numbers, default=[1, 2, 4])
    parser.add_argument("--kernels", default="auto", help="the workers' --cuda-kernels")
    parser.add_argument("--kill", type=numbers, default=[2, 4], help="ranks of the clusters that lose one")
    parser.add_argument("--nccl", type=int, default=2, help="ranks of the cluster whose rows go by NCCL; 0: none")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--seconds", type=float, default=3600, help="no cluster begins when they are over")
    parser.add_argument("--small", action="store_true", help="what an emulated card takes no time for")
    parser.add_argument("--library-path", help="LD_LIBRARY_PATH of the programs; this script may want another")
    options = parser.parse_args()
    if options.small:
        options.ranks, options.kill, options.tokens, options.prompts = [1, 2], [2], 6, 2
    options.bin = options.bin.resolve()
    options.environment = {**os.environ, **({"LD_LIBRARY_PATH": options.library_path} if options.library_path else {})}
    options.end = time.monotonic() + options.seconds

    def terminate(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come twice
        for process in Cluster.live:  # so that no stream is waited for
            process.send_signal(signal.SIGTERM)
        raise Terminated("stopped before it ended")

    signal.signal(signal.SIGTERM, terminate)
    result = {"lines": [], "runs": [], "failures": []}
    with tempfile.TemporaryDirectory(prefix="choir-gpu-check-", ignore_cleanup_errors=True) as folder:
        folder = pathlib.Path(folder)
        try:
            options.model = (options.model or make_model(options, folder)).resolve()
            play(options, folder, result)
            if options.nccl:
                play_nccl(options, folder, result)
        except (Failed, Terminated, OSError, subprocess.SubprocessError) as error:
            result["failures"].append(str(error))
            tell(options, result, f"FAILED: {str(error).splitlines()[0]}")
            print(f"FAILED: {error}", file=sys.stderr)
    return 1 if result["failures"] or result.get("left_out") else 0


if __name__ == "__main__":
    sys.exit(main())
