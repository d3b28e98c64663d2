"""A one-node Kubernetes of the programs that build.sh makes: etcd, API server, controllers, scheduler, containerd, kubelet,
kube-proxy and names (dnsmasq with what the API server knows of Services). For run.py. It changes iptables and a few
sysctls of the machine and puts them back."""
import base64
import contextlib
import json
import os
import pathlib
import shutil
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request

TOKEN = "only-for-this-run"
NODE, PODS, SERVICES = "10.246.0.1", "10.245.0.0/24", "10.96.0.0/24"
SYSCTLS = ("net.ipv4.ip_forward", "vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops", "net.ipv4.conf.all.route_localnet")
TLS = ssl._create_unverified_context()  # the server's certificate is made anew at each start


def eventually(check, what, seconds=180):
    pause, end = threading.Event(), time.monotonic() + seconds
    while not (value := check()):
        if time.monotonic() > end:
            raise SystemExit(f"{what} not reached in {seconds} s")
        pause.wait(0.2)
    return value


class Machine:
    def __init__(self, programs, work):
        self.bin, self.work = programs, work
        self.processes, self.over = [], threading.Event()
        self.kubeconfig = work / "kubeconfig"
        self.socket = work / "containerd.sock"
        self.url = "https://127.0.0.1:16443"
        self.saved = {name: subprocess.run(["sysctl", "-n", name], capture_output=True, text=True).stdout.strip() for name in SYSCTLS}

    def start(self, name, *command):
        with open(self.work / f"{name}.log", "wb") as log:
            process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=subprocess.STDOUT, cwd=self.work)
        self.processes.append((name, process))
        return process

    def api(self, method, path, body=None, kind="application/json"):
        data = None if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"authorization": f"Bearer {TOKEN}", "content-type": kind}, method=method)
        with urllib.request.urlopen(request, timeout=30, context=TLS) as response:
            text = response.read().decode()
            return json.loads(text) if response.headers["content-type"].startswith("application/json") else text

    def answers(self, path):
        try:
            return self.api("GET", path)
        except (urllib.error.URLError, OSError):
            return None

    def up(self):
        self.control_plane()
        self.node()
        threading.Thread(target=self.names, daemon=True).start()

    def control_plane(self):
        w, b = self.work, self.bin
        peer = "http://127.0.0.1:12380"
        self.start("etcd", "etcd", "--data-dir", w / "etcd", "--listen-client-urls", "http://127.0.0.1:12379", "--advertise-client-urls",
                   "http://127.0.0.1:12379", "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}")
        subprocess.run("openssl genrsa -out sa.key 2048 && openssl rsa -in sa.key -pubout -out sa.pub", shell=True, check=True, cwd=w, capture_output=True)
        (w / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "clusters": [{"name": "x", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "x", "user": {"token": TOKEN}}]}))
        self.start("apiserver", b / "kube-apiserver", "--etcd-servers=http://127.0.0.1:12379", "--cert-dir=certs", "--bind-address=127.0.0.1",
                   "--secure-port=16443", "--insecure-port=0", "--token-auth-file=tokens.csv", "--authorization-mode=RBAC",
                   "--service-account-key-file=sa.pub", "--service-account-signing-key-file=sa.key",
                   "--service-account-issuer=https://kubernetes.default.svc", f"--service-cluster-ip-range={SERVICES}",
                   "--kubelet-preferred-address-types=InternalIP", "--allow-privileged")
        eventually(lambda: self.answers("/readyz") == "ok", "a ready API server")
        self.start("controllers", b / "kube-controller-manager", "--kubeconfig", self.kubeconfig, "--service-account-private-key-file=sa.key",
                   "--root-ca-file=certs/apiserver.crt", "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=16257", "--port=0", "--cert-dir=certs")
        self.start("scheduler", b / "kube-scheduler", "--kubeconfig", self.kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1",
                   "--secure-port=16259", "--port=0", "--cert-dir=certs")

    def node(self):
        w = self.work
        plugins = next(pathlib.Path(p) for p in ("/usr/lib/cni", "/opt/cni/bin") if pathlib.Path(p).exists())
        (w / "cni").mkdir()
        (w / "cni" / "10.conflist").write_text(json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": "choir-pods", "isGateway": True, "ipMasq": False, "hairpinMode": True,
             "ipam": {"type": "host-local", "subnet": PODS, "routes": [{"dst": "0.0.0.0/0"}], "dataDir": str(w / "ipam")}}]}))
        (w / "containerd.toml").write_text(f'''version = 2
root = "{w}/containerd"
state = "{w}/containerd-state"
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/local/pause:v1"
  stream_server_address = "127.0.0.1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{w}/cni"
''')
        subprocess.run(["ip", "addr", "add", f"{NODE}/32", "dev", "lo"], capture_output=True)
        subprocess.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
        self.start("containerd", "containerd", "--config", w / "containerd.toml")
        eventually(lambda: self.ctr("version").returncode == 0, "containerd")
        self.import_pause()
        (w / "kubelet.yaml").write_text(json.dumps({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "address": NODE, "port": 16250, "healthzPort": 16248,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}}, "authorization": {"mode": "AlwaysAllow"},
            "readOnlyPort": 0, "cgroupDriver": "cgroupfs", "cgroupsPerQOS": False, "enforceNodeAllocatable": [], "failSwapOn": False,
            "imageGCHighThresholdPercent": 100, "evictionHard": {"memory.available": "100Mi"}, "clusterDNS": [NODE], "clusterDomain": "cluster.local"}))
        self.start("kubelet", self.bin / "kubelet", "--config", w / "kubelet.yaml", "--kubeconfig", self.kubeconfig, "--root-dir", w / "kubelet",
                   "--cert-dir", w / "kubelet-certs", "--container-runtime", "remote", "--container-runtime-endpoint", f"unix://{self.socket}",
                   "--hostname-override", "node-0", "--node-ip", NODE)
        self.start("proxy", self.bin / "kube-proxy", "--kubeconfig", self.kubeconfig, "--hostname-override", "node-0", "--cluster-cidr", PODS,
                   "--bind-address", "127.0.0.1", "--metrics-bind-address", "127.0.0.1:16249", "--healthz-bind-address", "127.0.0.1:16256",
                   "--conntrack-max-per-core", "0", "--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0")

        def ready():
            node = self.answers("/api/v1/nodes/node-0")
            return node and any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
        eventually(ready, "a ready node")

    def ctr(self, *args):
        return subprocess.run(["ctr", "-a", str(self.socket), "-n", "k8s.io", *map(str, args)], capture_output=True, text=True)

    def import_image(self, layout, name):
        archive = self.work / "image.tar"
        archive.unlink(missing_ok=True)
        subprocess.run(["skopeo", "copy", "-q", f"oci:{layout}", f"docker-archive:{archive}:{name}"], check=True)
        done = self.ctr("images", "import", archive)
        assert done.returncode == 0, done.stderr

    def import_pause(self):
        root = self.work / "pause"
        root.mkdir()
        shutil.copy(self.bin / "pause", root / "pause")
        (root / "Containerfile").write_text('FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n')
        storage = ["buildah", "--root", self.work / "pause-storage", "--runroot", self.work / "pause-run", "--storage-driver", "vfs"]
        subprocess.run([*map(str, storage), "bud", "-q", "--isolation", "chroot", "-t", "pause", root], check=True, capture_output=True)
        subprocess.run([*map(str, storage), "push", "-q", "pause", f"oci:{self.work}/pause-oci:v1"], check=True, capture_output=True)
        self.import_image(f"{self.work}/pause-oci:v1", "docker.io/local/pause:v1")

    def names(self):
        """Keeps dnsmasq's hosts as the Services say."""
        hosts = self.work / "hosts"
        hosts.write_text("")
        dns = self.start("dns", "dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", f"--addn-hosts={hosts}", f"--listen-address={NODE}",
                         "--bind-interfaces", "--local=/cluster.local/", "--max-cache-ttl=1", "--local-ttl=1")
        known = ""
        while not self.over.wait(0.3):
            services, endpoints = self.answers("/api/v1/services"), self.answers("/api/v1/endpoints")
            if not services or not endpoints:
                continue
            text = self.hosts_text(services["items"], endpoints["items"])
            if text != known:
                known = text
                hosts.write_text(text)
                dns.send_signal(signal.SIGHUP)

    @staticmethod
    def hosts_text(services, endpoints):
        headless, lines = set(), set()
        for s in services:
            name = f"{s['metadata']['name']}.{s['metadata']['namespace']}.svc.cluster.local"
            if s["spec"].get("clusterIP") == "None":
                headless.add(name)
            else:
                lines.add(f"{s['spec']['clusterIP']} {name}")
        for e in endpoints:  # notReadyAddresses are empty where the service publishes all
            name = f"{e['metadata']['name']}.{e['metadata']['namespace']}.svc.cluster.local"
            for address in (a for subset in e.get("subsets", []) for a in subset.get("addresses", [])):
                if name in headless:
                    lines.add(f"{address['ip']} {name}")
                    if address.get("hostname"):
                        lines.add(f"{address['ip']} {address['hostname']}.{name}")
        return "\n".join(sorted(lines)) + "\n"

    def secret(self, namespace, name, files):
        data = {key: base64.b64encode(pathlib.Path(path).read_bytes()).decode() for key, path in files.items()}
        self.api("POST", f"/api/v1/namespaces/{namespace}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})

    @staticmethod
    def end(processes):
        for _, process in reversed(processes):
            process.terminate()
        for _, process in reversed(processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def down(self):
        self.over.set()
        containerd = [p for p in self.processes if p[0] == "containerd"]
        self.end([p for p in self.processes if p[0] != "containerd"])  # first: what would start containers again
        for task in self.ctr("tasks", "ls", "-q").stdout.split():
            self.ctr("tasks", "kill", "-s", "SIGKILL", task)
        self.end(containerd)
        for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):  # what containerd leaves behind: shims of this run's socket
            with contextlib.suppress(OSError):
                words = entry.read_bytes().split(b"\0")
                if str(self.socket).encode() in words:
                    os.kill(int(entry.parent.name), signal.SIGKILL)
        for mount in sorted({line.split()[1] for line in open("/proc/mounts") if str(self.work) in line}, reverse=True):
            subprocess.run(["umount", "-l", mount], capture_output=True)
        subprocess.run(["ip", "addr", "del", f"{NODE}/32", "dev", "lo"], capture_output=True)
        subprocess.run(["ip", "link", "del", "choir-pods"], capture_output=True)
        rules = subprocess.run(["iptables-save"], capture_output=True, text=True).stdout
        ours = [line for line in rules.splitlines() if "KUBE" not in line]
        subprocess.run(["iptables-restore"], input="\n".join(ours) + "\n", text=True, capture_output=True)
        for name, value in self.saved.items():
            subprocess.run(["sysctl", "-qw", f"{name}={value}"], capture_output=True)
