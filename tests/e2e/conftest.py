"""End-to-end tests: real processes of the release build, real clients. Every cluster has its own state
directory and free ports; everything ends with its test module.

CHOIR_BIN names the folder of the binaries (default: build/release/bin)."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("CHOIR_BIN", ROOT / "build" / "release" / "bin"))
CHECKPOINTS = ROOT / "tests" / "golden" / "checkpoints"


def eventually(check, timeout=120.0, what="condition"):
    """Polls until check() is truthy and returns it; fails with the last value."""
    pause = threading.Event()
    end = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < end, f"{what} not reached in {timeout} s: {value!r}"
        pause.wait(0.02)


def admin_page(admin, name="/readyz"):
    """(status, text) of a page of a part's admin port, which is host:port or the URL of its metrics; None: nobody answers."""
    url = admin.removesuffix("/metrics") if admin.startswith("http") else f"http://{admin}"
    try:
        with urllib.request.urlopen(url + name, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None


def is_ready(admin):
    return (admin_page(admin) or (0,))[0] == 200


def status_page(admin):
    """What a part's /statusz says; empty where nobody answers."""
    page = admin_page(admin, "/statusz")
    return json.loads(page[1]) if page else {}


def own_host(last):
    """A loopback address of this test run's own: nothing else takes a port there."""
    return f"127.{1 + os.getpid() % 250}.{1 + os.getpid() // 250 % 250}.{last}"


@contextlib.contextmanager
def held_workers(cluster):
    """While it lasts, or until what it yields is called, nothing is computed: what runs cannot end."""
    pids = cluster.ready["pids"]["workers"]

    def release():
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield release
    finally:
        release()


class Cluster:
    """One `choir up` and what its ready file says."""

    def __init__(self, tmp, model="tiny_glm4_moe", ranks=2, groups=1, config=None, extra=()):
        self.state = tmp / "state"
        self.ready_file = tmp / "ready.json"
        command = [BIN / "choir", "up", "--model", CHECKPOINTS / model, "--ranks", ranks, "--groups", groups,
                   "--listen", "127.0.0.1:0", "--state", self.state, "--ready-file", self.ready_file, *extra]
        if config is not None:
            (tmp / "config.yaml").write_text(config)
            command += ["--config", tmp / "config.yaml"]
        self.log = open(tmp / "up.log", "wb")
        self.process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=self.log)
        eventually(lambda: self.ready_file.exists() or self.process.poll() is not None, 60, "the cluster's start")
        if self.process.poll() is not None:
            raise RuntimeError((tmp / "up.log").read_text() + self.logs())
        self.model = pathlib.Path(model).name

    @property
    def ready(self):
        return json.loads(self.ready_file.read_text())

    @property
    def url(self):
        return self.ready["url"]

    @property
    def key(self):
        return self.ready["api_key"]

    def logs(self):
        return "".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted((self.state / "log").glob("*.log")))

    def openai(self, **kwargs):
        import openai
        kwargs.setdefault("api_key", self.key)
        kwargs.setdefault("max_retries", 0)
        return openai.OpenAI(base_url=self.url + "/v1", timeout=60, **kwargs)

    def metric(self, url, name, **labels):
        """Sum of the series of that name whose labels match."""
        total, found = 0.0, False
        for line in urllib.request.urlopen(url, timeout=10).read().decode().splitlines():
            if line.startswith("#"):
                continue
            series, value = line.rsplit(" ", 1)
            if series.split("{")[0] == name and all(f'{k}="{v}"' in series for k, v in labels.items()):
                total, found = total + float(value), True
        return total if found else None

    def serves(self):
        """The router would take a request: a rank is ready."""
        return is_ready(self.ready["metrics"]["router"])

    def workers_idle(self):
        """False also while one that was killed does not answer again."""
        urls = self.ready["metrics"]["workers"]
        try:
            return all(self.metric(u, "choir_requests_running") == 0 and self.metric(u, "choir_requests_waiting") == 0
                       and self.metric(u, "choir_kv_blocks", state="held") == 0 for u in urls)
        except OSError:
            return False

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        return self.process.returncode


SHOW_CALLS = "{%- for m in messages %}{%- for c in m.tool_calls or [] %}\n{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
OPEN_THINK = "{%- if open_think is defined and open_think %}\n<think>{% endif %}"


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """One cluster for all tests that only ask. Its chat template shows the arguments of tool calls and can leave
    <think> open."""
    model = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(CHECKPOINTS / "tiny_glm4_moe", model)
    with open(model / "chat_template.jinja", "a") as template:
        template.write(SHOW_CALLS + OPEN_THINK)
    c = Cluster(tmp_path_factory.mktemp("shared"), model=model)
    yield c
    code = c.stop()
    assert code == 0, c.logs()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    c = Cluster(tmp_path_factory.mktemp("cluster"))
    yield c
    code = c.stop()
    assert code == 0, c.logs()
