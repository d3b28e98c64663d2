"""The commands that tests run beside their clusters."""
import json
import subprocess

from conftest import BIN


def add_key(folder, tenant, *more):
    """A fresh key in the folder's keys.yaml."""
    out = subprocess.run([BIN / "choir", "keys", "add", "--file", folder / "keys.yaml", "--tenant", tenant, "--json", *more],
                         capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)["key"]


def audit(*args):
    return subprocess.run([str(a) for a in (BIN / "choir", "audit", *args)], capture_output=True, text=True, timeout=60)


def audit_records(folder, *more):
    """What `choir audit show` prints of the logs in it."""
    run = audit("show", folder, *more)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def by_receipt(records):
    """The records by the receipts that name them."""
    return {f"{r['log']}:{r['seq']}": r for r in records}


def check_router_config(tmp, text):
    """`choir-router --check-config` of that text."""
    (tmp / "c.yaml").write_text(text)
    return subprocess.run([BIN / "choir-router", "--config", tmp / "c.yaml", "--check-config", "--model", tmp, "--keys", tmp / "k",
                           "--worker", "127.0.0.1:1"], capture_output=True, text=True, timeout=60)
