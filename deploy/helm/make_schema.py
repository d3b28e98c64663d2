#!/usr/bin/env python3
"""Makes `$defs` of deploy/helm/choir/values.schema.json; --check only compares. All else there is written by hand.

Sections of the configuration file come from the programs (`--config-schema`; CHOIR_BIN names their folder), what they leave to
readers of their own from below, and Kubernetes' types from its published schemas. Needs the environment of tools/python-env deploy."""
import json
import os
import pathlib
import subprocess
import sys

import kubernetes_validate

HERE = pathlib.Path(__file__).parent
SCHEMA = HERE / "choir" / "values.schema.json"
BIN = pathlib.Path(os.environ.get("CHOIR_BIN", HERE.parents[1] / "build" / "release" / "bin"))
KUBERNETES = "v1.37.0-local-strict"
TYPES = ("io.k8s.api.core.v1.Affinity", "io.k8s.api.core.v1.Toleration", "io.k8s.api.networking.v1.NetworkPolicyPeer",
         "io.k8s.api.networking.v1.NetworkPolicyEgressRule")
# Written by hand in the file itself.
OWN = ("name", "needed_name", "labels", "annotations", "digest", "duration", "size", "quantity", "resource_name", "resources", "port")
DROPPED = ("$schema", "title", "description", "format")
# Kubernetes' schemas say these only in words: (type, field) and what its value has to be.
WORDS = {
    ("NodeSelectorRequirement", "operator"): {"enum": ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]},
    ("LabelSelectorRequirement", "operator"): {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
    ("PreferredSchedulingTerm", "weight"): {"type": "integer", "minimum": 1, "maximum": 100},
    ("WeightedPodAffinityTerm", "weight"): {"type": "integer", "minimum": 1, "maximum": 100},
    ("Toleration", "operator"): {"enum": ["Exists", "Equal", "Lt", "Gt"]},
    ("Toleration", "effect"): {"enum": ["", "NoSchedule", "PreferNoSchedule", "NoExecute"]},
    ("NetworkPolicyPort", "protocol"): {"enum": ["TCP", "UDP", "SCTP"]},
    ("NetworkPolicyPort", "endPort"): {"type": "integer", "minimum": 1, "maximum": 65535},
}
# A peer of nothing would be nobody.
NOT_EMPTY = {"NetworkPolicyPeer"}


def closed(properties, **more):
    return {"type": "object", "additionalProperties": False, "properties": properties, **more}


def whole(low, high):
    return {"type": "integer", "minimum": low, "maximum": high}


def number(low, high):
    return {"type": "number", "minimum": low, "maximum": high}


def listed(schema):
    return {"type": "array", "items": schema}


TEXT = {"type": "string", "minLength": 1}
TIME = {"type": ["string", "number"], "pattern": "^[0-9]+([.][0-9]+)? ?(us|ms|s|m|h)?$"}
AMOUNT = {"anyOf": [whole(0, 1000000), {"type": "string", "pattern": "^([0-9]+|[0-9]+([.][0-9]+)?%)$"}]}
CLASS = {"enum": ["interactive", "default", "bulk", "system"]}
PLAIN_NAME = {"pattern": "^[A-Za-z0-9._-]{1,64}$"}
RULES = {"requests_per_second": number(1e-4, 1e6), "burst": whole(1, 10**6), "concurrency": whole(1, 10**6),
         "tokens_per_minute": whole(1, 10**12), "tokens_per_day": whole(1, 10**12), "budget": number(0, 1e9)}
BURST = {"dependentRequired": {"burst": ["requests_per_second"]}}
PRICE = number(0, 1e6)
CLASS_RULES = closed({"floor": AMOUNT, "ceiling": AMOUNT, "queue": whole(0, 10**6), "queue_timeout": TIME, "ageing": TIME})
# What the router gives to readers of their own (OptionSet::AddSubtree). tests/deploy/install/test_config_schema.py holds it
# against the program.
SUBTREES = {
    "limitRules": closed(RULES, **BURST),
    "tenants": {"type": "object", "propertyNames": PLAIN_NAME, "additionalProperties":
                closed({**RULES, "class": CLASS, "weight": whole(1, 1000)}, **BURST)},
    "limits": closed({"global": {"$ref": "#/$defs/limitRules"}, "default": {"$ref": "#/$defs/limitRules"},
                      "models": {"type": "object", "additionalProperties": {"$ref": "#/$defs/limitRules"}},
                      "prices": closed({"prompt": PRICE, "cached": PRICE, "output": PRICE})}),
    "admission": closed({"ahead": whole(0, 1024), **{c: CLASS_RULES for c in CLASS["enum"]}}),
    "content_rules": listed(closed({"name": PLAIN_NAME, "pattern": TEXT, "on": {"enum": ["input", "output", "both"]},
                                    "action": {"enum": ["redact", "refuse"]}, "with": {"type": "string"},
                                    "ignore_case": {"type": "boolean"}, "tenants": {**listed(TEXT), "minItems": 1}},
                                   required=["name", "pattern"])),
    "certificates": listed(closed({"spiffe": TEXT, "dns": TEXT, "tenant": TEXT, "models": listed(TEXT), "networks": listed(TEXT),
                                   "class": CLASS, "limits": {"$ref": "#/$defs/limitRules"}},
                                  required=["tenant"], oneOf=[{"required": ["spiffe"]}, {"required": ["dns"]}])),
}


def plain(schema):
    """Without what is only for people."""
    if isinstance(schema, list):
        return [plain(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {k: v for k, v in schema.items() if k not in DROPPED or isinstance(v, dict)}
    return {k: plain(v) for k, v in kept.items() if not k.startswith("x-")}


def section(part):
    """The configuration of a program."""
    told = subprocess.run([BIN / f"choir-{part}", "--config-schema"], check=True, capture_output=True, text=True, timeout=60).stdout
    schema = json.loads(told)
    for key, value in schema["properties"].items():
        if set(value) == {"description"}:
            if key not in SUBTREES:
                sys.exit(f"choir-{part} reads {key} by itself: say in deploy/helm/make_schema.py what may stand there")
            schema["properties"][key] = {"$ref": f"#/$defs/{key}"}
    return plain(schema)


def kubernetes():
    """The types of TYPES and those that they are made of, by their last names."""
    folder = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / KUBERNETES
    all_types = json.loads((folder / "_definitions.json").read_text())["$defs"]
    made, wanted = {}, list(TYPES)

    def take(node):
        if isinstance(node, list):
            return [take(n) for n in node if n != "null"]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            wanted.append(node["$ref"].rpartition("/")[2])
            return {"$ref": "#/$defs/" + wanted[-1].rpartition(".")[2]}
        kept = {k: take(v) for k, v in node.items()}
        if isinstance(kept.get("type"), list) and len(kept["type"]) == 1:
            kept["type"] = kept["type"][0]
        return kept

    while wanted:
        full = wanted.pop()
        name = full.rpartition(".")[2]
        if name in made:
            continue
        made[name] = plain(take(all_types[full]))
        for (kind, field), schema in WORDS.items():
            if kind == name:
                made[name]["properties"][field] = schema
        if name in NOT_EMPTY:
            made[name]["minProperties"] = 1
    return made


def text():
    schema = json.loads(SCHEMA.read_text())
    made = {**{f"{part}Config": section(part) for part in ("router", "gateway", "worker")}, **SUBTREES, **kubernetes()}
    schema["$defs"] = {**{name: schema["$defs"][name] for name in OWN}, **dict(sorted(made.items()))}
    return json.dumps(schema, indent=1) + "\n"


def main():
    wanted = text()
    if "--check" not in sys.argv:
        SCHEMA.write_text(wanted)
    elif SCHEMA.read_text() != wanted:
        sys.exit("deploy/helm/choir/values.schema.json is not what the programs and Kubernetes say: run deploy/helm/make_schema.py")


if __name__ == "__main__":
    main()
