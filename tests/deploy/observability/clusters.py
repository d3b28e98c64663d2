"""The clusters of tests/e2e, by a path: another conftest has the name here."""
import importlib.util
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[3]
_spec = importlib.util.spec_from_file_location("e2e_conftest", ROOT / "tests" / "e2e" / "conftest.py")
_e2e = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_e2e)
BIN, Cluster, eventually = _e2e.BIN, _e2e.Cluster, _e2e.eventually


def add_key(state, tenant):
    out = subprocess.run([BIN / "choir", "keys", "add", "--file", state / "keys.yaml", "--tenant", tenant, "--json"],
                         check=True, capture_output=True, text=True).stdout
    return json.loads(out)["key"]
