"""What values may stand in the sections of the configuration file: what the programs say, and where they leave it to a reader
of its own, what that reader takes."""
import json
import os
import re
import subprocess
import sys

import jsonschema
import pytest
import yaml

from conftest import BIN, CHART, MODEL, ROOT

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFS = SCHEMA["$defs"]
NEEDED = ("--model", MODEL, "--keys", "none", "--worker", "127.0.0.1:1")


def refusals(config, tmp_path):
    """What the router says of a section `router`; empty: it takes it."""
    file = tmp_path / "choir.yaml"
    file.write_text(yaml.safe_dump({"router": config}))
    done = subprocess.run([BIN / "choir-router", "--config", file, "--check-config", *NEEDED], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 2), done.stderr
    return done.stderr if done.returncode else ""


def test_the_schema_is_what_programs_and_kubernetes_say():
    done = subprocess.run([sys.executable, ROOT / "deploy" / "helm" / "make_schema.py", "--check"], capture_output=True, text=True,
                          timeout=60, env={**os.environ, "CHOIR_BIN": str(BIN)})
    assert done.returncode == 0, done.stderr


def test_every_part_of_the_schema_is_used():
    text = json.dumps(SCHEMA)
    used = set(re.findall(r'"#/\$defs/([^"]+)"', text))
    assert used == set(DEFS)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


RULES = DEFS["limitRules"]["properties"]
TENANT = DEFS["tenants"]["additionalProperties"]["properties"]
READERS = {  # a section with a key that nobody knows, and the keys that the schema has in its place
    "tenant": ({"tenants": {"acme": {"zzzzzzzz": 1}}}, TENANT),
    "limits": ({"limits": {"zzzzzzzz": 1}}, DEFS["limits"]["properties"]),
    "limit": ({"limits": {"global": {"zzzzzzzzzz": 1}}}, RULES),
    "limit of a model": ({"limits": {"models": {"m": {"zzzzzzzzzz": 1}}}}, RULES),
    "prices": ({"limits": {"prices": {"zzzzzzzz": 1}}}, DEFS["limits"]["properties"]["prices"]["properties"]),
    "admission": ({"admission": {"zzzzzzzz": 1}}, DEFS["admission"]["properties"]),
    "class": ({"admission": {"bulk": {"zzzzzzzz": 1}}}, DEFS["admission"]["properties"]["bulk"]["properties"]),
    "content rule": ({"content_rules": [{"zzzzzzzz": 1}]}, DEFS["content_rules"]["items"]["properties"]),
    "certificate": ({"certificates": [{"zzzzzzzz": 1}]}, DEFS["certificates"]["items"]["properties"]),
}


@pytest.mark.parametrize("reader", READERS)
def test_readers_know_the_keys_of_the_schema_and_no_others(reader, tmp_path):
    config, keys = READERS[reader]
    said = refusals(config, tmp_path)
    known = re.search(r"known are ([^\n]+)", said)
    assert known, said
    assert set(known.group(1).split(", ")) == set(keys)


FULL = {
    "tenants": {"acme": {"class": "bulk", "weight": 1000, "requests_per_second": 1e-4, "burst": 1, "concurrency": 10**6,
                         "tokens_per_minute": 10**12, "tokens_per_day": 1, "budget": 1e9}, "none": {}},
    "limits": {"global": {"requests_per_second": 1e6, "burst": 10**6}, "default": {"concurrency": 1},
               "models": {"org/model": {"tokens_per_day": 10**12}}, "prices": {"prompt": 0, "cached": 0.07, "output": 1e6}},
    "admission": {"ahead": 1024, "system": {"floor": "2.5%", "ceiling": "100%", "queue": 0, "queue_timeout": "24h", "ageing": "1ms"},
                  "interactive": {"floor": 8, "ceiling": 1000000}, "default": {"queue": 10**6}, "bulk": {"queue_timeout": 30}},
    "content_rules": [{"name": "mail", "pattern": "a@b", "on": "input", "action": "redact", "with": "", "ignore_case": True, "tenants": ["acme"]}],
}


def test_the_schema_knows_the_cpu_kernels_of_every_machine():
    kernels = {name for file in (ROOT / "kernels" / "cpu").glob("*.cc") for name in re.findall(r'MicroOf\("(\w+)"\)', file.read_text())}
    assert len(kernels) > 3 and set(DEFS["workerConfig"]["properties"]["cpu_path"]["enum"]) == {"auto", "reference", *kernels}


def test_what_the_schema_takes_at_its_ends_the_router_takes(tmp_path):
    for key, value in FULL.items():
        jsonschema.Draft202012Validator({"$ref": f"#/$defs/{key}", "$defs": DEFS}).validate(value)
    assert not refusals(FULL, tmp_path)


@pytest.mark.parametrize("key, value", [
    ("tenants", {"acme": {"weight": 1001}}), ("tenants", {"acme": {"class": "gold"}}), ("tenants", {"a b": {}}),
    ("tenants", {"acme": {"burst": 5}}), ("limits", {"global": {"requests_per_second": 0}}), ("limits", {"default": {"concurrency": 1.5}}),
    ("limits", {"prices": {"prompt": -1}}), ("admission", {"bulk": {"floor": "110"  "percent"}}), ("admission", {"ahead": 1025}),
    ("admission", {"bulk": {"ageing": "soon"}}), ("content_rules", [{"pattern": "a", "on": "both sides", "name": "n"}]),
    ("content_rules", [{"pattern": "a"}]), ("certificates", [{"tenant": "acme"}]), ("certificates", [{"dns": "a.example"}])],
    ids=lambda v: str(v)[:50])
def test_what_the_schema_refuses_the_router_refuses(key, value, tmp_path):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator({"$ref": f"#/$defs/{key}", "$defs": DEFS}).validate(value)
    assert refusals({key: value}, tmp_path)
