"""The audit log of a real cluster: what clients saw is on record, the log proves itself, changes are found."""
import base64
import hashlib
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from commands import audit, audit_records, by_receipt
from conftest import BIN, CHECKPOINTS, Cluster, eventually

SECRET = "an unmistakable prompt 8d1f"


def ask(cluster, key=None, **body):
    """Status, receipt and body of one completion over plain HTTP."""
    body = {"model": cluster.model, "prompt": SECRET, "max_tokens": 4, **body}
    request = urllib.request.Request(cluster.url + "/v1/completions", json.dumps(body).encode(),
                                     {"authorization": f"Bearer {key or cluster.key}", "content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers.get("x-choir-audit"), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("x-choir-audit"), error.read()


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """A cluster that served some requests and was ended; what its client saw."""
    cluster = Cluster(tmp_path_factory.mktemp("audited"))
    seen = [ask(cluster), ask(cluster, stream=True, n=2), ask(cluster, key="ck-wrong"), ask(cluster, model="other"),
            ask(cluster, prompt=[1] * 100000)]
    live = audit("verify", cluster.state / "audit")
    key = cluster.key
    metric = cluster.metric(cluster.ready["metrics"]["router"], "choir_audit_records_total", phase="intent")
    assert cluster.stop() == 0
    return cluster, seen, live, key, metric


def test_each_request_is_on_record_once_and_its_receipt_names_it(closed):
    cluster, seen, live, _, metric = closed
    assert live.returncode == 0, live.stdout + live.stderr
    found = audit_records(cluster.state / "audit")
    named = by_receipt(found)
    assert [code for code, _, _ in seen] == [200, 200, 401, 404, 400]
    for code, receipt, _ in seen:
        record = named[receipt]
        assert record["phase"] == ("intent" if code == 200 else "refused")
        assert code == 200 or record["status"] == code
    intents = [r for r in found if r["phase"] == "intent"]
    outcomes = [r for r in found if r["phase"] == "outcome"]
    assert [r["request_id"] for r in intents] == [r["request_id"] for r in outcomes] and len(intents) == 2 == metric
    assert len([r for r in found if r["phase"] == "refused"]) == 3
    assert outcomes[0]["output_tokens"] == 4 and outcomes[1]["output_tokens"] == 8
    assert outcomes[0]["status"] == 200 and outcomes[0]["finish"] == "length"
    assert outcomes[0]["tenant"] == "local" and outcomes[0]["workers"][0]["worker"].startswith("g0r")
    assert {w["choice"] for w in outcomes[1]["workers"]} == {0, 1}


def test_the_closed_log_proves_itself(closed):
    cluster, *_ = closed
    out = audit("verify", cluster.state / "audit", "--json")
    verdict = json.loads(out.stdout)
    assert out.returncode == 0 and verdict["intact"] and verdict["closed"] and verdict["open"] == []
    assert verdict["signed_seq"] == verdict["records"]
    proof = audit("prove", cluster.state / "audit", "--receipt", f"{verdict['log']}:2")
    assert proof.returncode == 0 and json.loads(proof.stdout)["record"]["seq"] == 2


def canonical(value):
    """RFC 8785, as far as records need it: their keys are ASCII."""
    if isinstance(value, dict):
        return "{" + ",".join(json.dumps(k) + ":" + canonical(v) for k, v in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float):
        return str(int(value)) if value == int(value) else repr(value).replace("e-0", "e-")
    return json.dumps(value, ensure_ascii=False)


def check_proof(proof, public_pem):
    """Written from docs/runbook.md, "Checking a proof by other means", and nothing else."""
    key = serialization.load_pem_public_key(public_pem)
    record, checkpoint = proof["record"], proof["checkpoint"]
    without = lambda r, *keys: canonical({k: v for k, v in r.items() if k not in keys}).encode()
    for each in record, checkpoint:
        assert each["hash"] == hashlib.sha256(without(each, "hash")).hexdigest()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert checkpoint["phase"] == "checkpoint" and checkpoint["key_fp"] == hashlib.sha256(der).hexdigest()
    key.verify(base64.b64decode(checkpoint["signature"]), without(checkpoint, "hash", "signature"))
    i, n = proof["index"], proof["size"] - 1
    assert record["log"] == checkpoint["log"] and proof["size"] == checkpoint["count"] and i <= n and record["seq"] == checkpoint["first"] + i
    at = hashlib.sha256(b"\0" + record["hash"].encode()).digest()
    for sibling in map(bytes.fromhex, proof["path"]):
        if i % 2 or i == n:
            while i % 2 == 0:
                i, n = i // 2, n // 2
            at = hashlib.sha256(b"\1" + sibling + at).digest()
        else:
            at = hashlib.sha256(b"\1" + at + sibling).digest()
        i, n = i // 2, n // 2
    assert n == 0 and at.hex() == checkpoint["root"]


def test_a_proof_can_be_checked_without_the_log_and_without_choir(closed, tmp_path):
    cluster, *_ = closed
    pem = cluster.state / "audit" / "public_key.pem"
    check = lambda proof: subprocess.run([BIN / "choir", "audit", "check-proof", "-", "--public-key", pem], input=json.dumps(proof),
                                         capture_output=True, text=True)
    found = audit_records(cluster.state / "audit")
    proofs = [json.loads(audit("prove", cluster.state / "audit", "--receipt", f"{r['log']}:{r['seq']}").stdout)
              for r in found if r["phase"] != "checkpoint"]
    assert len(proofs) >= 7
    for proof in proofs:
        check_proof(proof, pem.read_bytes())
        said = check(proof)
        assert said.returncode == 0 and f":{proof['record']['seq']} is in the log" in said.stdout, said.stderr
    proof = proofs[1]
    changes = {"record.hash": ("record", {**proof["record"], "tenant": "other"}), "record: is missing": ("record", None),
               "index": ("index", proof["index"] + 1), "size": ("size", proof["size"] + 1),
               "path: has": ("path", proof["path"][1:]), "path: does not lead": ("path", ["0" * 64] + proof["path"][1:]),
               "checkpoint.hash": ("checkpoint", {**proof["checkpoint"], "count": 1}), "path: must be": ("path", ["x"])}
    for why, (name, value) in changes.items():
        said = check({**proof, name: value})
        assert said.returncode == 1 and why in said.stderr, (why, said.stderr)
    assert check("text").returncode == 1
    last = audit("prove", cluster.state / "audit", "--receipt", f"{found[-1]['log']}:{found[-1]['seq']}")
    assert found[-1]["phase"] == "checkpoint" and last.returncode == 1 and "its own signature" in last.stderr
    other = tmp_path / "other.pem"
    other.write_bytes(Ed25519PrivateKey.generate().public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "proof").write_text(json.dumps(proof))
    said = audit("check-proof", tmp_path / "proof", "--public-key", other)
    assert said.returncode == 1 and "key_fp" in said.stderr
    (tmp_path / "proof").write_text("{")
    assert audit("check-proof", tmp_path / "proof", "--public-key", pem).returncode == 2


def test_neither_prompts_nor_keys_are_under_audit_or_log(closed):
    cluster, _, _, key, _ = closed
    for path in [*(cluster.state / "audit").rglob("*"), *(cluster.state / "log").rglob("*")]:
        if path.is_file():
            text = path.read_bytes()
            assert SECRET.encode() not in text and key.encode() not in text, path


def test_changes_are_found_and_named(closed, tmp_path):
    cluster, *_ = closed
    source = cluster.state / "audit"
    segment = sorted(source.glob("segment-*"))[0].name
    lines = (source / segment).read_text().splitlines(keepends=True)
    changes = {
        "edited": (lines[:2] + [lines[2].replace('"tenant":"local"', '"tenant":"other"')] + lines[3:], "record 3"),
        "removed": (lines[:2] + lines[3:], "record 3"), "swapped": (lines[:1] + [lines[2], lines[1]] + lines[3:], "record 2"),
        "cut": (lines[:-1], "head.json"), "appended": (lines + ["{}\n"], f"record {len(lines) + 1}")}
    for name, (changed, where) in changes.items():
        copy = tmp_path / name
        copy.mkdir()
        for path in source.glob("*.*"):
            (copy / path.name).write_bytes(path.read_bytes())
        (copy / segment).write_text("".join(changed))
        run = audit("verify", copy)
        assert run.returncode == 1 and "BROKEN" in run.stdout and where in run.stdout, (name, run.stdout)
    assert audit("verify", tmp_path / "absent").returncode == 2


def test_a_killed_router_leaves_a_gap_that_names_the_open_request_which_goes_on(tmp_path):
    cluster = Cluster(tmp_path)
    try:
        stream = iter(cluster.openai().completions.create(model=cluster.model, prompt="go", max_tokens=150, stream=True, extra_body={"ignore_eos": True}))
        next(stream)
        os.kill(cluster.ready["pids"]["router"], signal.SIGKILL)
        assert list(stream)[-1].choices[0].finish_reason == "length"
        eventually(cluster.workers_idle, what="an idle cluster")
    finally:
        assert cluster.stop() == 0, cluster.logs()
    found = audit_records(cluster.state / "audit")
    ids = [r["request_id"] for r in found if r["phase"] == "intent"]
    gaps = [r for r in found if r["phase"] == "gap"]
    assert len(gaps) == 1 and gaps[0]["open"] == ids[:1]
    assert audit("verify", cluster.state / "audit").returncode == 0


def test_a_log_that_cannot_be_written_refuses_requests(tmp_path):
    # /dev/full cannot stand in for a directory: a limit on file sizes does.
    cluster = Cluster(tmp_path)
    try:
        pid = cluster.ready["pids"]["router"]
        import resource
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        code, _, body = ask(cluster)
        assert code == 503 and json.loads(body)["error"]["code"] == "audit"
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert eventually(lambda: ask(cluster)[0] == 200, what="service after the disk has room")
    finally:
        assert cluster.stop() == 0, cluster.logs()
    assert audit("verify", cluster.state / "audit").returncode == 0


def test_recorded_answers_are_computed_again_and_compared(tmp_path):
    cluster = Cluster(tmp_path, config="router: {audit: {capture_content: true}}")
    try:
        for body in ({"temperature": 1, "seed": 7, "n": 2}, {"temperature": 0, "stop": "e"}, {"temperature": 1.5, "logit_bias": {"5": 3}}):
            assert ask(cluster, max_tokens=24, **body)[0] == 200
        # An answer that took two workers: the second went on where the first was killed.
        stream = iter(cluster.openai().completions.create(model=cluster.model, prompt="go", max_tokens=150, stream=True, extra_body={"ignore_eos": True}))
        next(stream)
        os.kill(cluster.ready["pids"]["workers"][0], signal.SIGKILL)
        assert list(stream)[-1].choices[0].finish_reason == "length"
    finally:
        assert cluster.stop() == 0, cluster.logs()
    model = ["--model", CHECKPOINTS / cluster.model]
    run = audit("replay", cluster.state / "audit", *model, "--json")
    results = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0 and [r["result"] for r in results] == ["same"] * 4, run.stdout + run.stderr
    # Another model cannot be asked, a prompt that was not captured must be given and be the right one.
    other = audit("replay", cluster.state / "audit", "--model", CHECKPOINTS / "tiny_llama", "--json")
    assert other.returncode == 0 and {json.loads(line)["result"] for line in other.stdout.splitlines()} == {"not_replayable"}


def test_a_replay_without_content_needs_the_request(closed, tmp_path):
    cluster, *_ = closed
    intent = next(r for r in audit_records(cluster.state / "audit") if r["phase"] == "intent")
    model = ["--model", CHECKPOINTS / cluster.model, "--json", "--request", intent["request_id"]]
    results = {}
    for name, prompt in {"absent": None, "right": SECRET, "wrong": SECRET + "!"}.items():
        (tmp_path / name).write_text("" if prompt is None else json.dumps({"request_id": intent["request_id"], "prompt": prompt}) + "\n")
        run = audit("replay", cluster.state / "audit", *model, "--requests", tmp_path / name)
        results[name] = json.loads(run.stdout)["result"]
    assert results == {"absent": "not_replayable", "right": "same", "wrong": "not_replayable"}
