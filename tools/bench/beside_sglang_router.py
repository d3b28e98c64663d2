#!/usr/bin/env python3
"""Requests a second of gateway and router beside sglang-router (PyPI), in turn on the same machine with the same client (wrk, Debian's package).

usage: tools/bench/beside_sglang_router.py [--seconds 3] [--rounds 3] [--connections 16 64] [--version 0.3.2]

Ours: keys, limits and the audit log of class `enforced` on, before choir-fixed-step-worker (gRPC, steps of 0.1 ms). Theirs: round robin, nothing on, before choir-http-worker
(HTTP from memory). Build them first: tools/build release choir choir-router choir-gateway choir-fixed-step-worker choir-http-worker
"""
import argparse
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = ROOT / "build/release/bin"
LOAD = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. (os.getenv("CHOIR_KEY") or "none")
wrk.body = '{"model":"model","prompt":"count from one to","max_tokens":1,"ignore_eos":true}'
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("figures %f %f %f %d\\n", summary.requests / summary.duration * 1e6, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


# Counted for every request, never reached.
LIMITS = """router:
  limits:
    default: {requests_per_second: 1000000, concurrency: 100000, tokens_per_minute: 1000000000}
    global: {requests_per_second: 1000000, tokens_per_minute: 1000000000}
    models: {model: {tokens_per_minute: 1000000000}}
"""


def figures(text):
    rate, p50, p99, errors = re.search(r"^figures (\S+) (\S+) (\S+) (\d+)$", text, re.M).groups()
    if int(errors):
        sys.exit(f"{errors} requests failed:\n{text}")
    return float(rate), float(p50) / 1e3, float(p99) / 1e3


def wrk(args, connections, url):
    return ["wrk", "-t1", f"-c{connections}", f"-d{args.seconds}s", "-s", str(args.script), f"{url}/v1/completions"]


def cpu_seconds(pid):
    """Of the process and its children."""
    total = 0.0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == pid or int(fields[1]) == pid:
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def ours(args, connections):
    load = " ".join(wrk(args, connections, "$CHOIR_URL"))
    run = subprocess.run([BIN / "choir", "bench", "router", "--cluster-config", args.limits, "--step-us", "100", "--command", load], capture_output=True, text=True, check=True)
    gateway, router = map(float, re.search(r"CPU of gateway and router: (\S+) and (\S+) s", run.stdout).groups())
    rate, p50, p99 = figures(run.stdout)
    return rate, p50, p99, (gateway + router) / (rate * args.seconds) * 1e6


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def theirs(args, connections):
    started = []
    try:
        urls = []
        for _ in range(2):
            worker = subprocess.Popen([BIN / "choir-http-worker"], stdout=subprocess.PIPE, text=True)
            started.append(worker)
            urls.append("http://127.0.0.1:" + worker.stdout.readline().split()[1])
        port = free_port()
        router = subprocess.Popen([args.venv / "bin/python", "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin",
                                   "--prometheus-port", str(free_port()), "--log-level", "error", "--worker-urls", *urls], stdout=subprocess.DEVNULL)
        started.append(router)
        url = f"http://127.0.0.1:{port}"
        give_up = time.monotonic() + 60
        while not answers(f"{url}/readiness"):
            if router.poll() is not None or time.monotonic() > give_up:
                sys.exit("sglang-router does not become ready")
            time.sleep(0.05)
        before = cpu_seconds(router.pid)
        run = subprocess.run(wrk(args, connections, url), capture_output=True, text=True, check=True)
        spent = cpu_seconds(router.pid) - before
        rate, p50, p99 = figures(run.stdout)
        return rate, p50, p99, spent / (rate * args.seconds) * 1e6
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--version", default="0.3.2")
    args = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt-get install wrk")
    args.venv = ROOT / f"build/venv-sglang-router-{args.version}"
    if not (args.venv / "bin/smg").exists():
        subprocess.run([sys.executable, "-m", "venv", args.venv], check=True)
        subprocess.run([args.venv / "bin/pip", "install", "-q", f"sglang-router=={args.version}"], check=True)
    args.script = args.venv / "load.lua"
    args.script.write_text(LOAD)
    args.limits = args.venv / "limits.yaml"
    args.limits.write_text(LIMITS)
    print("| | connections | requests/s | p50 / p99 | CPU a request |\n|---|---|---|---|---|")
    for connections in args.connections:
        runs = {"choir": [], "sglang-router": []}
        for _ in range(args.rounds):
            runs["choir"].append(ours(args, connections))
            runs["sglang-router"].append(theirs(args, connections))
        for name, results in runs.items():
            rate, p50, p99, cpu = (statistics.median(column) for column in zip(*results))
            print(f"| {name} | {connections} | {rate:,.0f} | {p50:.1f} / {p99:.1f} ms | {cpu:.0f} us |")


if __name__ == "__main__":
    main()
