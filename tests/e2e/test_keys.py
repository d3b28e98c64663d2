"""API keys at a running router: added, rotated with an overlap, revoked."""
import json
import subprocess

import pytest
from conftest import BIN, Cluster, eventually
from wire import call


def keys(*args, code=0):
    out = subprocess.run([str(a) for a in (BIN / "choir", "keys", *args)], capture_output=True, text=True, timeout=60)
    assert out.returncode == code, out.stderr
    return out


@pytest.fixture
def file(shared):
    return shared.state / "keys.yaml"


def add(file, tenant):
    return json.loads(keys("add", "--file", file, "--tenant", tenant, "--json").stdout)


def status(shared, key):
    return call(shared, "/v1/models", method="GET", key=key["key"])[0]


def wait_for(shared, key, code):
    eventually(lambda: status(shared, key) == code, 5, f"status {code}")


def test_a_revoked_key_stops_and_the_others_do_not(shared, file):
    first, second = add(file, "rev"), add(file, "rev")
    for key in (first, second):
        wait_for(shared, key, 200)
    out = json.loads(keys("revoke", "--file", file, "--id", first["id"], "--json").stdout)
    assert [k["id"] for k in out["revoked"]] == [first["id"]]
    wait_for(shared, first, 401)
    assert status(shared, second) == 200
    assert second["id"] in keys("revoke", "--file", file, "--tenant", "rev").stdout
    wait_for(shared, second, 401)
    assert call(shared, "/v1/models", method="GET")[0] == 200
    states = {k["id"]: k["state"] for k in json.loads(keys("list", "--file", file, "--tenant", "rev", "--json").stdout)}
    assert states == {first["id"]: "revoked", second["id"]: "revoked"}


def test_a_rotated_key_overlaps_with_its_successor(shared, file):
    old = add(file, "rot")
    wait_for(shared, old, 200)
    new = json.loads(keys("rotate", "--file", file, "--tenant", "rot", "--overlap", "1h", "--json").stdout)
    assert new["tenant"] == "rot" and [k["id"] for k in new["replaces"]] == [old["id"]]
    wait_for(shared, new, 200)
    assert status(shared, old) == 200
    last = json.loads(keys("rotate", "--file", file, "--id", new["id"], "--overlap", "0s", "--json").stdout)
    wait_for(shared, last, 200)
    wait_for(shared, new, 401)
    assert status(shared, old) == 200  # still in its overlap
    listed = {k["id"]: k for k in json.loads(keys("list", "--file", file, "--tenant", "rot", "--json").stdout)}
    assert [listed[k["id"]]["state"] for k in (old, new, last)] == ["in force", "expired", "in force"]
    assert listed[last["id"]]["expires"] is None
    assert new["key"] not in file.read_text()


@pytest.mark.parametrize("args,code,says", [
    (("revoke",), 2, "--tenant or --id"), (("rotate",), 2, "--tenant or --id"), (("revoke", "--tenant", "nobody"), 1, "no key in force"),
    (("rotate", "--tenant", "nobody"), 1, "no key in force"), (("revoke", "--id", "k0"), 1, "no key 'k0'"), (("rotate", "--tenant", "a b"), 2, "tenant"),
    (("rotate", "--tenant", "rot", "--overlap", "-1s"), 2, "overlap"), (("revoke", "--tenant", "rot", "--overlap", "1h"), 2, "--overlap")])
def test_what_cannot_be_done_is_said(shared, file, args, code, says):
    assert says in keys(args[0], "--file", file, *args[1:], code=code).stderr


def test_a_key_that_the_gateway_knows_is_judged_by_the_router_all_the_same(tmp_path):
    cluster = Cluster(tmp_path, config="gateway: {key_known_for: 60s}\n")
    try:
        file = cluster.state / "keys.yaml"
        key = add(file, "known")

        def ask():
            return call(cluster, "/v1/completions", {"model": cluster.model, "prompt": "hi", "max_tokens": 1}, key=key["key"])[0]

        eventually(lambda: ask() == 200, 10, "the key")
        keys("revoke", "--file", file, "--id", key["id"])
        eventually(lambda: ask() == 401, 10, "the refusal")
    finally:
        cluster.stop()
