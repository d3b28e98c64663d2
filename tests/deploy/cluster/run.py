#!/usr/bin/env python3
"""Installs the chart into a real, old Kubernetes (1.20.2 on this machine, see build.sh) with real pods, and says what happened:
a chat request through the Service, a killed worker and an upgrade under load, a rollback. As root:

    tests/deploy/cluster/build.sh /var/tmp/kubernetes                 # once, ten minutes of CPU
    deploy/image/build
    build/venv-deploy/bin/python tests/deploy/cluster/run.py --programs /var/tmp/kubernetes/bin
"""
import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import helm_python as helm
import openai

from machine import Machine, eventually

ROOT = pathlib.Path(__file__).resolve().parents[3]
CHART, NAMESPACE = ROOT / "deploy" / "helm" / "choir", "serving"
VALUES = {
    "image": {"repository": "docker.io/local/choir", "tag": "v1", "pullPolicy": "Never"},
    "model": {"source": "hostPath", "path": "/models/tiny", "name": "tiny"},
    "keysSecret": "choir-keys",
    "router": {"replicas": 2, "audit": {"size": "1Gi"}, "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}},
    "gateway": {"mode": "container", "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}}},
    "worker": {"groups": 2, "ranks": 2, "threads": 1, "kvBytes": "32Mi", "updateStrategy": "pods",
               "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "640Mi"}}},
    "tls": {"mode": "existing", "existing": {p + "Secret": f"choir-{p}-tls" for p in ("router", "gateway", "worker")}},
    "drain": {"noticeSeconds": 5, "drainSeconds": 60},
}


def say(text):
    print(f"{time.monotonic() - START:6.1f} s  {text}", flush=True)


START = time.monotonic()


class Clients:
    """The same requests again and again; every answer is compared with the first one."""

    def __init__(self, url, key, count=3):
        self.url, self.key = url, key
        self.asked = self.wrong = 0
        self.errors, self.over, self.lock = [], threading.Event(), threading.Lock()
        self.want = [self.ask(seed) for seed in range(count)]
        self.threads = [threading.Thread(target=self.run, args=(seed,)) for seed in range(count)]
        for t in self.threads:
            t.start()

    def ask(self, seed):
        # A connection for each request, as each is a new choice of the Service.
        with openai.OpenAI(base_url=self.url, api_key=self.key, timeout=120, max_retries=0) as client:
            stream = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "sing"}], seed=seed, temperature=1,
                                                    max_tokens=100, stream=True, extra_body={"ignore_eos": True})
            return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)

    def run(self, seed):
        while not self.over.is_set():
            try:
                same = self.ask(seed) == self.want[seed]
                error = None if same else "other bytes"
            except Exception as e:  # whatever a client can see
                error = f"{type(e).__name__}: {e}"
            with self.lock:
                self.asked += 1
                if error:
                    self.errors.append(f"{time.monotonic() - START:.1f} s: {error}"[:300])

    def told(self):
        with self.lock:
            asked, errors = self.asked, list(self.errors)
            self.asked, self.errors = 0, []
        return f"{asked} requests, {len(errors)} failed or other bytes {errors[:3] if errors else ''}"

    def end(self):
        self.over.set()
        for t in self.threads:
            t.join(180)


def pods(machine):
    listed = machine.api("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
    return {p["metadata"]["name"]: p for p in listed}


def is_ready(pod):
    return "deletionTimestamp" not in pod["metadata"] and any(
        c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def all_ready(machine):
    found = pods(machine)
    return len(found) == 6 and all(is_ready(p) for p in found.values())


def rolled(machine):
    """Every StatefulSet has the pods of its newest revision, all ready."""
    sets = machine.api("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets")["items"]
    return all_ready(machine) and all(
        s["status"].get("observedGeneration") == s["metadata"]["generation"] and s["status"].get("updateRevision") == s["status"].get("currentRevision")
        and s["status"].get("readyReplicas") == s["spec"]["replicas"] for s in sets)


def prepare(machine, work, model):
    choir = ROOT / "build" / "release" / "bin" / "choir"
    machine.api("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    out = subprocess.run([choir, "keys", "add", "--file", work / "keys.yaml", "--tenant", "acme", "--json"], check=True, capture_output=True, text=True)
    machine.secret(NAMESPACE, "choir-keys", {"keys.yaml": work / "keys.yaml"})
    subprocess.run([choir, "tls", "init", "--dir", work / "tls", "--host", "choir"], check=True, capture_output=True)
    for part in ("router", "gateway", "worker"):
        machine.secret(NAMESPACE, f"choir-{part}-tls", {
            "tls.crt": work / "tls" / f"{part}.pem", "tls.key": work / "tls" / f"{part}-key.pem", "ca.crt": work / "tls" / "ca.pem"})
    for i in range(2):
        path = work / f"audit-{i}"
        path.mkdir()
        os.chown(path, 65532, 65532)
        machine.api("POST", "/api/v1/persistentvolumes", {
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"audit-{i}"},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": str(path)}}})
    subprocess.run(["cp", "-rL", model, work / "model"], check=True)
    subprocess.run(["chmod", "-R", "a+rX", work, work / "model"], check=True)
    return json.loads(out.stdout)["key"]


def kill_a_worker():
    """SIGKILL to the process of one rank."""
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"/usr/bin/choir-worker" and any(w.startswith(b"--pod=choir-worker-0.") for w in words):
            os.kill(int(entry.parent.name), signal.SIGKILL)
            return
    raise SystemExit("no process of choir-worker-0 found")


def restarts(machine):
    return sum(c["restartCount"] for p in pods(machine).values() for c in p["status"].get("containerStatuses", []))


def play(machine, work, options):
    machine.up()
    version = machine.api("GET", "/version")["gitVersion"]
    say(f"Kubernetes {version} is up")
    machine.import_image(f"{options.image}:choir:latest", "docker.io/local/choir:v1")
    key = prepare(machine, work, options.model)
    values = {**VALUES, "model": {**VALUES["model"], "hostPath": str(work / "model")}}
    with helm.Config(kubeconfig_path=str(machine.kubeconfig), namespace=NAMESPACE) as config:
        config.install(str(CHART), "choir", values)
        say(f"Helm {helm.helm_sdk_version()} installed the chart")
        eventually(lambda: all_ready(machine), "six ready pods", 400)
        say("two routers with gateways and two groups of two ranks are ready, over mutual TLS")
        ip = machine.api("GET", f"/api/v1/namespaces/{NAMESPACE}/services/choir")["spec"]["clusterIP"]
        clients = Clients(f"http://{ip}/v1", key)
        say(f"a chat request through the Service: {clients.want[0][:40]!r}")
        try:
            before = restarts(machine)
            kill_a_worker()
            eventually(lambda: restarts(machine) == before + 1 and all_ready(machine), "the killed worker's return")
            say(f"a killed worker is back; meanwhile {clients.told()}")
            config.upgrade(str(CHART), "choir", {**values, "worker": {**values["worker"], "config": {"step_tokens": 256}}, "router": {**values["router"], "config": {"max_requests": 500}}})
            eventually(lambda: rolled(machine), "the upgrade", 900)
            say(f"an upgrade replaced all pods; meanwhile {clients.told()}")
            config.rollback("choir", version=1)
            eventually(lambda: rolled(machine), "the rollback", 900)
            say(f"a rollback replaced them again; meanwhile {clients.told()}")
            refused = None
            try:
                config.upgrade(str(CHART), "choir", {**values, "drain": {"terminationGracePeriodSeconds": 10}})
            except helm.HelmError as error:
                refused = str(error)
            assert refused and "shorter than noticeSeconds" in refused, refused
            say("an upgrade to values that cannot work was refused before anything was sent")
        finally:
            clients.end()
        config.uninstall("choir")
        eventually(lambda: not pods(machine), "the end of all pods", 300)
        say(f"uninstalled; at the end {clients.told()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="bin of build.sh")
    parser.add_argument("--image", type=pathlib.Path, default=ROOT / "build" / "image" / "cpu" / "oci")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "tests" / "golden" / "checkpoints" / "tiny_glm4_moe")
    parser.add_argument("--keep", action="store_true", help="keep logs in the work directory")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root: it starts containerd and a kubelet")
    work = pathlib.Path(tempfile.mkdtemp(prefix="choir-cluster-"))
    machine = Machine(options.programs.resolve(), work)
    try:
        play(machine, work, options)
    finally:
        machine.down()
        if options.keep:
            print(f"logs: {work}")
        else:
            subprocess.run(["rm", "-rf", "--one-file-system", work])


if __name__ == "__main__":
    main()
