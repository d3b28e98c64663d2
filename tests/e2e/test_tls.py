"""TLS with certificates made by the openssl command, and by `choir up` itself."""
import http.client
import json
import pathlib
import signal
import socket
import ssl
import subprocess
import urllib.request

import grpc
import pytest
from commands import add_key, audit_records
from conftest import BIN, CHECKPOINTS, Cluster, eventually, is_ready, status_page
from test_grpc import pb  # noqa: F401  a fixture

MODEL = CHECKPOINTS / "tiny_glm4_moe"


def openssl(*args, stdin=None):
    out = subprocess.run(["openssl", *[str(a) for a in args]], input=stdin, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr


class Authority:
    """As docs/runbook.md tells it."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 30,
                "-subj", "/CN=test authority", "-keyout", folder / "ca-key.pem", "-out", folder / "ca.pem")

    def issue(self, name, identity, days=30, names=None):
        """days < 0: expired."""
        at = self.folder / name
        names = names or f"URI:spiffe://choir/{identity},DNS:localhost,IP:127.0.0.1"
        extensions = f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n"
        (self.folder / "ext").write_text(extensions)
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                "-keyout", f"{at}-key.new", "-out", f"{at}.csr")
        openssl("x509", "-req", "-in", f"{at}.csr", "-CA", self.folder / "ca.pem", "-CAkey", self.folder / "ca-key.pem",
                "-CAcreateserial", "-days", days, "-extfile", self.folder / "ext", "-out", f"{at}.new")
        pathlib.Path(f"{at}-key.new").rename(f"{at}-key.pem")
        pathlib.Path(f"{at}.new").rename(f"{at}.pem")
        return self

    def flags(self, name, prefix="--tls", ca=True):
        at = self.folder / name
        return [f"{prefix}-cert", f"{at}.pem", f"{prefix}-key", f"{at}-key.pem"] + ([f"{prefix}-ca", self.folder / "ca.pem"] if ca else [])


class Part:
    """One process, with its log."""

    def __init__(self, tmp, name, program, *args):
        self.log_file = tmp / f"{name}.log"
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen([str(a) for a in (BIN / program, *args)], stdout=subprocess.PIPE, stderr=log)
        line = self.process.stdout.readline().decode()
        self.said = dict(word.split("=", 1) for word in line.split()[1:])

    def log(self):
        return self.log_file.read_text()

    def status(self):
        return status_page(self.said["admin"])

    def metric(self, name):
        for line in urllib.request.urlopen(f"http://{self.said['admin']}/metrics", timeout=10).read().decode().splitlines():
            if line.startswith(name + " ") or line.startswith(name + "{"):
                return float(line.rsplit(" ", 1)[1])
        return None

    def stop(self):
        for _ in range(2):
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                try:
                    self.process.wait(5)
                except subprocess.TimeoutExpired:
                    continue
        self.process.kill()
        self.process.wait()


class Parts:
    """Worker, router and gateway as an operator starts them, each with its own certificate."""

    def __init__(self, tmp, authority):
        self.tmp, self.authority, self.all = tmp, authority, []
        self.key = add_key(tmp, "acme")

    def start(self, name, program, *args):
        part = Part(self.tmp, name, program, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *args)
        self.all.append(part)
        return part

    def worker(self, tls, *args, name="worker"):
        return self.start(name, "choir-worker", "--model", MODEL, *tls, *args)

    def router(self, tls, workers, name="router"):
        return self.start(name, "choir-router", "--model", MODEL, "--keys", self.tmp / "keys.yaml",
                          "--audit-dir", self.tmp / f"audit-{name}", *[a for w in workers for a in ("--worker", w.said["grpc"])], *tls)

    def gateway(self, tls, router, name="gateway"):
        return self.start(name, "choir-gateway", "--router", router.said["grpc"], *tls)

    def stop(self):
        for part in reversed(self.all):
            part.stop()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    a = Authority(tmp_path_factory.mktemp("tls") / "ca")
    for role in ("gateway", "router", "worker"):
        a.issue(role, role)
    a.issue("rank1", "worker/g0r1").issue("client", "tenant/umbrella")
    return a


@pytest.fixture
def parts(tmp_path, authority):
    p = Parts(tmp_path, authority)
    yield p
    p.stop()


def ready(part):
    return is_ready(part.said["admin"])


def client(parts, gateway, authority):
    import openai
    context = ssl.create_default_context(cafile=authority.folder / "ca.pem")
    return openai.OpenAI(base_url=f"https://{gateway.said['https']}/v1", api_key=parts.key, max_retries=0, timeout=60,
                         http_client=openai.DefaultHttpxClient(verify=context))


def serve(parts, authority):
    worker = parts.worker(authority.flags("worker"))
    router = parts.router(authority.flags("router"), [worker])
    gateway = parts.gateway(authority.flags("gateway", "--router-tls") + authority.flags("gateway", ca=False), router)
    eventually(lambda: ready(gateway) and ready(router), what="ready over TLS")
    return worker, router, gateway


def test_all_parts_over_tls_with_the_openai_client_and_a_swap_under_a_stream(parts, authority, tmp_path):
    own = Authority(tmp_path / "own")  # whose files this test may swap
    for role in ("gateway", "router", "worker"):
        own.issue(role, role)
    worker, router, gateway = serve(parts, own)
    api = client(parts, gateway, own)
    assert api.models.list().data[0].id == "tiny_glm4_moe"

    def ask(**extra):
        return api.completions.create(model="tiny_glm4_moe", prompt="Hello", temperature=0, extra_body={"ignore_eos": True}, **extra)

    whole = ask(max_tokens=400).choices[0].text
    stream = ask(max_tokens=400, stream=True)
    text = next(iter(stream)).choices[0].text
    for role in ("gateway", "router", "worker"):
        own.issue(role, role)
    seen = {p: p.status()["tls"] for p in (worker, router, gateway)}
    for part, before in seen.items():
        for use in before:
            eventually(lambda: part.status()["tls"][use]["reloads"] == 1, what="the new files")
    text += "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
    assert text == whole
    # New connections of the same client and of a new router get on with the new ones.
    assert client(parts, gateway, own).completions.create(model="tiny_glm4_moe", prompt="x", max_tokens=1).usage.completion_tokens == 1
    second = parts.router(own.flags("router"), [worker], name="router2")
    eventually(lambda: ready(second), what="a new router with the new files")

    # A broken replacement keeps the old one in force, and says so.
    (own.folder / "router-key.pem").write_text("garbage")
    eventually(lambda: router.metric("choir_config_reload_success") == 0, what="the broken file is seen")
    assert "holds no PEM private key" in router.status()["tls"]["grpc"]["problem"]
    assert "stays in force" in router.log()
    assert client(parts, gateway, own).models.list().data
    own.issue("router", "router")
    eventually(lambda: router.metric("choir_config_reload_success") == 1, what="the repaired file")


def test_grpc_with_and_without_a_client_certificate(parts, authority, pb):
    messages, stubs = pb
    worker = parts.worker(authority.flags("worker"))
    router = parts.router(authority.flags("router"), [worker])
    eventually(lambda: ready(router), what="ready")
    files = {n: (authority.folder / n).read_bytes() for n in ("ca.pem", "client.pem", "client-key.pem")}
    request = messages.GenerateRequest(model="tiny_glm4_moe", prompt="Hello", sampling=messages.Sampling(max_tokens=3, ignore_eos=True))

    def tokens(credentials, metadata):
        with grpc.secure_channel(router.said["grpc"], credentials) as channel:
            return sum(len(e.token_ids) for e in stubs.InferenceStub(channel).Generate(request, metadata=metadata, timeout=30))

    key = [("authorization", f"Bearer {parts.key}")]
    plain = grpc.ssl_channel_credentials(files["ca.pem"])
    mutual = grpc.ssl_channel_credentials(files["ca.pem"], files["client-key.pem"], files["client.pem"])
    assert tokens(plain, key) == 3
    assert tokens(mutual, key) == 3
    assert tokens(mutual, None) == 3  # the certificate says who it is
    with pytest.raises(grpc.RpcError) as e:
        tokens(plain, None)
    assert e.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as e:  # plain text
        with grpc.insecure_channel(router.said["grpc"]) as channel:
            list(stubs.InferenceStub(channel).Generate(request, metadata=key, timeout=30))
    assert e.value.code() == grpc.StatusCode.UNAVAILABLE
    records = audit_records(parts.tmp / "audit-router", "--phase", "intent")
    assert [(r["auth"], r["tenant"]) for r in records] == [("api_key", "acme"), ("api_key", "acme"), ("mtls", "umbrella")]
    assert records[2]["principal"] == "tenant/umbrella"
    [refused] = audit_records(parts.tmp / "audit-router", "--phase", "refused")
    assert (refused["auth"], refused["tenant"], refused["status"]) == ("", "", 401)
    assert parts.key not in router.log()


def test_certificates_are_mapped_to_tenants_with_rights(parts, tmp_path, pb):
    messages, stubs = pb
    own = Authority(tmp_path / "own")
    for role in ("router", "worker"):
        own.issue(role, role)
    names = {"app": "URI:spiffe://corp/ns/ai/sa/app,DNS:other.example", "batch": "URI:spiffe://corp/ns/batch/sa/x", "dns": "DNS:app.example.org,DNS:b.example",
             "stranger": "URI:spiffe://corp/ns/web/sa/app,DNS:app.example.org", "two": "URI:spiffe://corp/ns/ai/sa/app,URI:https://corp/x",
             "part": "URI:spiffe://choir/gateway,DNS:app.example.org", "far": "DNS:far.example"}
    for name, san in names.items():
        own.issue(name, None, names=san)
    (tmp_path / "router.yaml").write_text("""router: {certificates: [
      {spiffe: "spiffe://corp/ns/ai/sa/app", tenant: acme, class: interactive}, {spiffe: "spiffe://corp/ns/batch/*", tenant: acme, class: bulk, models: [other]},
      {dns: App.example.org, tenant: umbrella}, {dns: far.example, tenant: far, networks: [10.0.0.0/8]}]}
""")
    worker = parts.worker(own.flags("worker"))
    router = parts.router(own.flags("router") + ["--config", tmp_path / "router.yaml"], [worker])
    eventually(lambda: ready(router), what="ready")
    request = messages.GenerateRequest(model="tiny_glm4_moe", prompt="Hello", sampling=messages.Sampling(max_tokens=1, ignore_eos=True))

    def ask(name, metadata=None):
        files = [(own.folder / n).read_bytes() for n in ("ca.pem", f"{name}-key.pem", f"{name}.pem")]
        with grpc.secure_channel(router.said["grpc"], grpc.ssl_channel_credentials(*files)) as channel:
            try:
                list(stubs.InferenceStub(channel).Generate(request, metadata=metadata, timeout=30))
            except grpc.RpcError as e:
                return e.code().name
            return "OK"

    assert {name: ask(name) for name in names} == {
        "app": "OK", "batch": "PERMISSION_DENIED", "dns": "OK", "stranger": "UNAUTHENTICATED", "two": "UNAUTHENTICATED", "part": "UNAUTHENTICATED", "far": "PERMISSION_DENIED"}
    assert ask("stranger", [("authorization", f"Bearer {parts.key}")]) == "OK"
    assert ask("app", [("authorization", "Bearer ck-wrong")]) == "UNAUTHENTICATED"  # a wrong key is not passed by
    records = audit_records(parts.tmp / "audit-router")
    seen = {(r["auth"], r["tenant"], r["principal"], r.get("status")) for r in records if r["phase"] == "refused" and r["status"] == 403}
    assert seen == {("mtls", "acme", "spiffe://corp/ns/batch/sa/x", 403), ("mtls", "far", "far.example", 403)}
    assert {(r["auth"], r["tenant"]) for r in records if r["phase"] == "intent"} == {("mtls", "acme"), ("mtls", "umbrella"), ("api_key", "acme")}


def test_peers_of_the_wrong_role_or_authority_are_refused_with_the_reason(parts, authority, tmp_path):
    worker = parts.worker(authority.flags("worker"))
    eventually(lambda: ready(worker), what="ready")
    # A client's certificate as a router: the worker says no, and both sides say why.
    with grpc.secure_channel(worker.said["grpc"], grpc.ssl_channel_credentials(
            *[(authority.folder / n).read_bytes() for n in ("ca.pem", "client-key.pem", "client.pem")])) as channel:
        call = channel.stream_stream("/choir.v1.Worker/Connect")(iter([b""]), timeout=30)
        with pytest.raises(grpc.RpcError) as e:
            list(call)
    assert e.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "spiffe://choir/tenant/umbrella" in e.value.details() and "role of a router" in e.value.details()
    assert "role of a router" in worker.status()["tls"]["grpc"]["last_refused"]
    assert "role of a router" in worker.log()
    # A worker with a gateway's certificate in the place of a worker, as a router sees it.
    other = Authority(tmp_path / "other").issue("router", "router").issue("worker", "worker")
    foreign = parts.worker(other.flags("worker"), "--rank", 0, "--group", 1, name="foreign")
    router = parts.router(authority.flags("router"), [worker, foreign])
    eventually(lambda: ready(router), what="ready with one of two")
    reason = eventually(lambda: next(w["reason"] for w in router.status()["workers"] if w["address"] == foreign.said["grpc"]
                                     and "signed by no authority" in w["reason"]) if any(
        "signed by no authority" in w["reason"] for w in router.status()["workers"]) else None, what="the reason")
    assert str(authority.folder / "ca.pem") in reason
    assert foreign.said["grpc"].split(":")[0] in router.log()
    # A router of the other authority at the good worker: refused in the handshake, named in the worker's log.
    stranger = parts.router(other.flags("router"), [worker], name="stranger")
    eventually(lambda: "is signed by no authority" in worker.log(), what="the worker's reason")
    assert not ready(stranger)


def test_ranks_join_their_leader_over_mutual_tls(parts, authority):
    flags = ("--ranks", 2, "--threads", 1)
    leader = parts.worker(authority.flags("worker"), *flags, "--rank", 0)
    rank1 = parts.worker(authority.flags("rank1"), *flags, "--rank", 1, "--leader", leader.said["grpc"], name="rank1")
    eventually(lambda: ready(leader) and ready(rank1), what="the group is ready")


@pytest.mark.parametrize("case,reason", [
    ("expired", "expired on"), ("role", "the role of a worker is needed"), ("key", "does not match the certificate"),
    ("missing", "No such file"), ("garbage", "holds no PEM certificate"), ("half", "--tls-key, --tls-ca: missing")])
def test_a_part_does_not_start_with_bad_files_and_says_why(tmp_path, case, reason):
    own = Authority(tmp_path / "ca").issue("worker", "worker")
    flags = own.flags("worker")
    if case == "expired":
        own.issue("worker", "worker", days=-1)
    elif case == "role":
        own.issue("worker", "gateway")
    elif case == "key":
        own.issue("other", "worker")
        (own.folder / "other-key.pem").rename(own.folder / "worker-key.pem")
    elif case == "missing":
        flags[1] = own.folder / "none.pem"
    elif case == "garbage":
        (own.folder / "worker.pem").write_text("garbage")
    else:
        flags = flags[:2]
    out = subprocess.run([str(a) for a in (BIN / "choir-worker", "--model", MODEL, "--listen", "127.0.0.1:0",
                                           "--admin", "127.0.0.1:0", *flags)], capture_output=True, text=True, timeout=60)
    assert out.returncode == 2
    assert reason in out.stderr
    assert out.stderr.count("\n") <= 2


@pytest.mark.parametrize("program,args,names", [
    ("choir-worker", ("--model", MODEL, "--listen", "0.0.0.0:0"), ("--listen 0.0.0.0:0", "--tls-cert", "--insecure")),
    ("choir-worker", ("--model", MODEL, "--rank", 1, "--ranks", 2, "--leader", "leader.example:7100"), ("--leader leader.example:7100", "--tls-cert")),
    ("choir-router", ("--model", MODEL, "--keys", "/x", "--worker", "10.9.9.9:7100"), ("--worker 10.9.9.9:7100", "--tls-cert", "--insecure")),
    ("choir-gateway", ("--listen", "0.0.0.0:0"), ("--listen 0.0.0.0:0", "--tls-cert", "--insecure")),
    ("choir-gateway", ("--router", "router.example:7070"), ("--router router.example:7070", "--router-tls-cert", "--router-insecure"))])
def test_plain_text_beyond_loopback_is_refused_by_name(program, args, names):
    command = [str(a) for a in (BIN / program, *args)]
    out = subprocess.run(command + ["--check-config"], capture_output=True, text=True, timeout=60)
    assert out.returncode == 2
    for name in names:
        assert name in out.stderr
    for switch in ("--insecure", "--router-insecure"):
        if switch in names or program != "choir-gateway":
            assert subprocess.run(command + [switch, "--check-config"], capture_output=True, timeout=60).returncode == (0 if switch in out.stderr else 2)


def test_choir_up_with_tls_makes_its_certificates(tmp_path, pb):
    cluster = Cluster(tmp_path, ranks=2, extra=("--tls", "on"))
    try:
        assert cluster.url.startswith("https://127.0.0.1:")
        ca = cluster.ready["tls"]["ca"]
        assert (pathlib.Path(ca).parent / "ca-key.pem").stat().st_mode & 0o777 == 0o600
        context = ssl.create_default_context(cafile=ca)
        import openai
        api = cluster.openai(http_client=openai.DefaultHttpxClient(verify=context))
        assert api.completions.create(model=cluster.model, prompt="a", max_tokens=2).usage.completion_tokens > 0
        messages, stubs = pb
        with grpc.secure_channel(cluster.ready["router"], grpc.ssl_channel_credentials(pathlib.Path(ca).read_bytes())) as channel:
            models = stubs.InferenceStub(channel).ListModels(messages.ListModelsRequest(), metadata=[("authorization", f"Bearer {cluster.key}")])
            assert [m.id for m in models.models] == [cluster.model]
        # A client that closes in the middle is noticed through the encryption.
        host, port = cluster.url.removeprefix("https://").split(":")
        body = json.dumps({"model": cluster.model, "prompt": "a", "max_tokens": 100000, "ignore_eos": True, "stream": True}).encode()
        raw = context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host)
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + cluster.key.encode()
                    + b"\r\ncontent-length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
        assert raw.recv(4096).startswith(b"HTTP/1.1 ")
        raw.close()
        eventually(cluster.workers_idle, what="the abandoned request is cancelled")
        # Plain HTTP is told what to do.
        plain = http.client.HTTPConnection(host, int(port), timeout=20)
        plain.request("GET", "/v1/models")
        answer = plain.getresponse()
        assert answer.status == 400 and "https://" in json.loads(answer.read())["error"]["message"]
    finally:
        assert cluster.stop() == 0, cluster.logs()


def test_choir_up_beyond_loopback_uses_tls_unless_told_not_to(tmp_path):
    cluster = Cluster(tmp_path, ranks=1, extra=("--listen", "0.0.0.0:0"))
    try:
        assert cluster.url.startswith("https://")
        port = cluster.url.rsplit(":", 1)[1]
        context = ssl.create_default_context(cafile=cluster.ready["tls"]["ca"])
        with context.wrap_socket(socket.create_connection(("127.0.0.1", int(port))), server_hostname="localhost") as s:
            assert s.version() == "TLSv1.3"
        out = subprocess.run([BIN / "choir", "bench", "e2e", "--state", cluster.state, "--requests", "2", "--prompt", "4", "--tokens", "4", "--json"], capture_output=True, text=True, timeout=120)
        assert out.returncode == 0, out.stderr
    finally:
        assert cluster.stop() == 0, cluster.logs()
    out = subprocess.run([str(a) for a in (BIN / "choir", "up", "--model", MODEL, "--state", tmp_path / "x", "--tls", "off", "--tls-cert", "a", "--tls-key", "b")],
                         capture_output=True, text=True, timeout=60)
    assert out.returncode == 2 and "--tls off" in out.stderr


def test_tls_init_makes_what_the_parts_take(parts, tmp_path):
    folder = tmp_path / "made"
    command = [str(a) for a in (BIN / "choir", "tls", "init", "--dir", folder, "--host", "choir.example", "--tenant", "acme")]
    subprocess.run(command, check=True, capture_output=True)
    first = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert set(first) == {f"{n}{k}.pem" for n in ("ca", "gateway", "router", "worker", "tenant-acme") for k in ("", "-key")}
    subprocess.run(command, check=True, capture_output=True)
    assert (folder / "ca.pem").read_bytes() == first["ca.pem"] and (folder / "router.pem").read_bytes() != first["router.pem"]
    made = Authority.__new__(Authority)
    made.folder = folder
    serve(parts, made)
    out = subprocess.run([BIN / "choir", "tls", "init", "--dir", folder, "--host", "a,URI:spiffe://choir/router"], capture_output=True, text=True)
    assert out.returncode == 1 and "no host name" in out.stderr
