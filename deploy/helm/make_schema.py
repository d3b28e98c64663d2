#!/usr/bin/env python3
"""Makes `$defs` of deploy/helm/choir/values.schema.json and what is `required` there, and templates/_ranges.tpl; --check only
compares. All else of the schema is written by hand.

Sections of the configuration file come from the programs (`--config-schema`; CHOIR_BIN names their folder), what they leave to
readers of their own from below, and Kubernetes' types from its published schemas. Every value of values.yaml is required, since one
that is set to null is absent. _ranges.tpl has the ranges of sizes and times, which a schema cannot compare when they are written
as texts. Needs the environment of tools/python-env deploy."""
import json
import os
import pathlib
import subprocess
import sys

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).parent
SCHEMA = HERE / "choir" / "values.schema.json"
VALUES = HERE / "choir" / "values.yaml"
RANGES = HERE / "choir" / "templates" / "_ranges.tpl"
BIN = pathlib.Path(os.environ.get("CHOIR_BIN", HERE.parents[1] / "build" / "release" / "bin"))
KUBERNETES = "v1.37.0-local-strict"
TYPES = ("io.k8s.api.core.v1.Affinity", "io.k8s.api.core.v1.Toleration", "io.k8s.api.networking.v1.NetworkPolicyPeer",
         "io.k8s.api.networking.v1.NetworkPolicyEgressRule")
# Written by hand in the file itself.
OWN = ("name", "needed_name", "host_name", "label_key", "labels", "annotations", "topology_keys", "tag", "digest", "duration",
       "route_duration", "scrape_duration", "size", "quantity", "resource_name", "resources", "port")
LABEL_KEY = {"$ref": "#/$defs/label_key"}
LABEL_VALUE = {"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"}
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
    ("NetworkPolicyPort", "endPort"): {"$ref": "#/$defs/port"},
    ("NetworkPolicyPort", "port"): {"anyOf": [{"$ref": "#/$defs/port"}, {"type": "string", "maxLength": 15, "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}]},
    ("LabelSelector", "matchLabels"): {"$ref": "#/$defs/labels"},
    ("LabelSelectorRequirement", "key"): LABEL_KEY,
    ("NodeSelectorRequirement", "key"): LABEL_KEY,
    ("NodeSelector", "nodeSelectorTerms"): {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/NodeSelectorTerm"}},
    ("PodAffinityTerm", "topologyKey"): LABEL_KEY,
    ("PodAffinityTerm", "namespaces"): {"type": "array", "items": {"$ref": "#/$defs/needed_name"}},
    ("Toleration", "key"): {"anyOf": [{"const": ""}, LABEL_KEY]},
    ("LabelSelectorRequirement", "values"): {"type": "array", "items": LABEL_VALUE},
    ("Toleration", "value"): LABEL_VALUE,
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
TIME = {"type": ["string", "number"], "pattern": "^[0-9]+([.][0-9]+)? ?(us|ms|s|m|h)?$", "minimum": 0.001, "maximum": 86400}
AMOUNT = {"anyOf": [whole(0, 1000000), {"type": "string", "pattern": "^([0-9]+|[0-9]+([.][0-9]+)?%)$"}]}
CLASS = {"enum": ["interactive", "default", "bulk", "system"]}
PLAIN_NAME = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}
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
    "certificates": listed(closed({"spiffe": {"type": "string", "maxLength": 2048, "pattern": "^spiffe://[^/*]+/([^*]+|([^*]+/)?[*])$"},
                                   "dns": TEXT, "tenant": PLAIN_NAME, "models": {**listed(TEXT), "minItems": 1},
                                   "networks": {**listed(TEXT), "minItems": 1}, "class": CLASS, "limits": {"$ref": "#/$defs/limitRules"}},
                                  required=["tenant"], oneOf=[{"required": ["spiffe"]}, {"required": ["dns"]}])),
}
# What programs take for text and then look up in a list of their own: (part, option) and what may stand there. Of the CPU kernels each
# machine has some; here are those of all (kernels/cpu).
CHOICES = {("worker", "cpu_path"): {"enum": ["auto", "reference", "portable", "avx2", "avx512", "avx512bf16"]},
           ("worker", "cpu_experts"): {"anyOf": [{"enum": ["auto", "0"]}, {"type": "integer", "minimum": 0, "maximum": 4096}]}}


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
    schema["properties"].update({option: choice for (of, option), choice in CHOICES.items() if of == part})
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
        said = {field: schema for (kind, field), schema in WORDS.items() if kind == name}
        source = all_types[full]
        if said:
            source = {**source, "properties": {**source["properties"], **dict.fromkeys(said, {})}}
        made[name] = plain(take(source))
        made[name].get("properties", {}).update(said)
        if name in NOT_EMPTY:
            made[name]["minProperties"] = 1
    return made


def require(schema, values):
    """Every value that has a default is there, unless it was set to null."""
    schema["required"] = list(values)
    for key, value in values.items():
        if isinstance(value, dict) and "properties" in schema["properties"].get(key, {}):
            require(schema["properties"][key], value)


def with_units(number, units):
    """A number as people write it: 3600 s as 1h."""
    size, unit = next((s, u) for s, u in units if number and number % s == 0 or s == units[-1][0])
    return f"{round(number / size, 6):g}{unit}" if number else "0"


TIME_UNITS = ((3600, "h"), (60, "m"), (1, "s"), (0.001, "ms"))
SIZE_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, ""))


def ranges(schema, path=()):
    """(path, least, most, as words) of every size and time."""
    for key, value in schema.get("properties", {}).items():
        if "minimum" in value and "string" in value["type"]:
            units = SIZE_UNITS if "KiB" in value["pattern"] else TIME_UNITS
            low, high = value["minimum"], value["maximum"]
            yield ".".join((*path, key)), low, high, f"{with_units(low, units)} to {with_units(high, units)}"
        yield from ranges(value, (*path, key))


def ranges_text(made):
    lines = ["{{/* Made by deploy/helm/make_schema.py: ranges of sizes and times of the configuration file, in bytes and seconds. */}}",
             '{{- define "choir.ranges" -}}']
    for part in ("router", "gateway", "worker"):
        lines.append(f"{part}:")
        found = list(ranges(made[f"{part}Config"]))
        if part == "router":
            found += ranges(made["admission"], ("admission",))
        lines += [f"  {path}: [{low:.15g}, {high:.15g}, {words}]" for path, low, high, words in found]
    return "\n".join([*lines, "{{- end -}}"]) + "\n"


def texts():
    """Every file and what has to be in it."""
    schema = json.loads(SCHEMA.read_text())
    made = {**{f"{part}Config": section(part) for part in ("router", "gateway", "worker")}, **SUBTREES, **kubernetes()}
    schema["$defs"] = {**{name: schema["$defs"][name] for name in OWN}, **dict(sorted(made.items()))}
    require(schema, yaml.safe_load(VALUES.read_text()))
    return {SCHEMA: json.dumps(schema, indent=1) + "\n", RANGES: ranges_text(made)}


def main():
    for path, wanted in texts().items():
        if "--check" not in sys.argv:
            path.write_text(wanted)
        elif not path.exists() or path.read_text() != wanted:
            sys.exit(f"deploy/helm/choir/{path.relative_to(HERE / 'choir')} is not what values.yaml, the programs and Kubernetes say: "
                     "run deploy/helm/make_schema.py")


if __name__ == "__main__":
    main()
