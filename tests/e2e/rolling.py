"""A cluster as an operator starts it, part by part, each on an address that it keeps over restarts, and a load of streams
through whichever gateways are in rotation, as behind a Service."""
import itertools
import signal
import subprocess
import threading
import urllib.request

from commands import add_key
from conftest import BIN, eventually, is_ready, own_host
from streams import Answer

DRAIN = ("--drain-timeout", "120s")


class Part:
    """A process that can be replaced by a new one at the same address."""

    def __init__(self, cluster, name, program, *args):
        self.cluster, self.name, self.args = cluster, name, [BIN / program, *args]
        self.grpc_or_http = self.admin = None
        self.start()

    def start(self):
        addresses = ["--listen", self.grpc_or_http or f"{self.cluster.host}:0", "--admin", self.admin or f"{self.cluster.host}:0"]
        if self.grpc_or_http is None and self.name == "gateway":
            addresses[1] = "127.0.0.1:0"
        with open(self.cluster.tmp / f"{self.name}.log", "ab") as log:
            self.process = subprocess.Popen([str(a) for a in [*self.args, *addresses]], stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("listening"), self.cluster.logs()
        said = dict(word.split("=", 1) for word in line.split()[1:])
        self.admin = said.pop("admin")
        (self.grpc_or_http,) = said.values()

    def ready(self):
        return is_ready(self.admin)

    def metric(self, name, label=""):
        """The sum of the series of that name that have the label."""
        text = urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=10).read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((name + " ", name + "{")) and label in line)

    def end(self):
        """SIGTERM, and the wait for the end of the drain; it has to be a clean one."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(180) == 0, self.cluster.logs()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Parts:
    def __init__(self, tmp, model, groups, ranks, routers, gateways):
        self.tmp, self.model, self.all = tmp, model.name, []
        self.host = own_host(7)  # nothing else takes its ports while a part is away
        self.key = add_key(tmp, "acme")
        self.workers = []
        for group in range(groups):
            for rank in range(ranks):
                leader = () if rank == 0 else ("--leader", self.workers[-rank].grpc_or_http)
                self.workers.append(self.add(f"worker-{group}-{rank}", "choir-worker", "--model", model, "--group", group, "--rank", rank,
                                             "--ranks", ranks, "--threads", 1, *leader, *DRAIN))
        named = [a for w in self.workers for a in ("--worker", w.grpc_or_http)]
        self.routers = [self.add(f"router-{i}", "choir-router", "--model", model, "--keys", tmp / "keys.yaml", "--audit-dir",
                                 tmp / f"audit-{i}", "--drain-notice", "10s", *named, *DRAIN) for i in range(routers)]
        named = [a for r in self.routers for a in ("--router", r.grpc_or_http)]
        self.gateways = [self.add(f"gateway-{i}", "choir-gateway", *named, *DRAIN) for i in range(gateways)]
        eventually(self.complete, 120, "a ready cluster")

    def complete(self):
        """All parts are ready, and every router knows that all workers are."""
        return all(p.ready() for p in self.all) and all(
            r.metric("choir_worker_state", 'state="ready"') == len(self.workers) for r in self.routers)

    def add(self, *args):
        part = Part(self, *args)
        self.all.append(part)
        return part

    def logs(self):
        return "".join(f"== {p.name}\n{p.read_text()[-2000:]}" for p in sorted(self.tmp.glob("*.log")))

    def stop(self):
        for part in reversed(self.all):
            part.kill()


class Load:
    """Clients that ask the same requests again and again, and compare every answer with the first one."""

    def __init__(self, parts, requests, clients):
        self.parts, self.requests, self.wrong, self.answered = parts, requests, [], 0
        self.rotation = list(parts.gateways)
        self.arriving = {g: 0 for g in parts.gateways}  # picked, and its answer has not begun
        self.lock, self.changed, self.over = threading.Lock(), threading.Condition(), threading.Event()
        self.next = itertools.count()
        self.want = [self.ask(r) for r in requests]
        assert all(a.done for a in self.want), [a.error for a in self.want]
        self.threads = [threading.Thread(target=self.client) for _ in range(clients)]
        for t in self.threads:
            t.start()

    def ask(self, request):
        path, fields = request
        with self.lock:
            gateway = self.rotation[next(self.next) % len(self.rotation)]
            self.arriving[gateway] += 1
        begun = [False]

        def arrived(_=0):
            if not begun[0]:
                begun[0] = True
                with self.lock:
                    self.arriving[gateway] -= 1

        answer = Answer()
        try:
            answer.status = answer.read(f"http://{gateway.grpc_or_http}", self.parts.key, "POST", path,
                                        {**fields, "model": self.parts.model, "stream": True}, on_event=arrived)
        finally:
            arrived()
        return answer

    def client(self):
        while not self.over.is_set():
            index = next(self.next) % len(self.requests)
            got = self.ask(self.requests[index])
            with self.lock:
                self.answered += 1
                if not got.done or got.content() != self.want[index].content():
                    self.wrong.append((index, got.status, got.error, got.done))

    def out_of_rotation(self, gateway):
        """As when a Service forgets a pod: nothing new goes there, and what was on its way has arrived."""
        with self.lock:
            self.rotation.remove(gateway)
        eventually(lambda: self.arriving[gateway] == 0, 120, "the last arrival")

    def back(self, gateway):
        with self.lock:
            self.rotation.append(gateway)

    def goes_on(self, count):
        """Waits for so many more answers."""
        until = self.answered + count
        eventually(lambda: self.answered >= until or self.wrong, 240, "answers under load")

    def end(self):
        self.over.set()
        for t in self.threads:
            t.join(240)
        assert not any(t.is_alive() for t in self.threads)
