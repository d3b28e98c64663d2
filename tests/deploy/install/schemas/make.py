#!/usr/bin/env python3
"""Makes a schema of this folder from a published CustomResourceDefinition: make.py CRD.yaml VERSION > KIND-GROUP-VERSION.json.

Objects are closed, so a misspelt field is an error as it is for an API server that decodes strictly. Pod templates are left
to the schema of Kubernetes itself (`x-pod-template`); texts, defaults, formats and rules in CEL are dropped. Needs PyYAML."""
import json
import sys

import yaml

DROPPED = ("description", "default", "format", "nullable", "title", "example")


def is_pod_template(node):
    spec = node.get("properties", {}).get("spec", {})
    return "containers" in spec.get("properties", {})


def close(node):
    if isinstance(node, list):
        return [close(n) for n in node]
    if not isinstance(node, dict):
        return node
    if is_pod_template(node):
        return {"type": "object", "x-pod-template": True}
    out = {}
    for key, value in node.items():
        if key in DROPPED or key.startswith("x-"):
            continue
        out[key] = {k: close(v) for k, v in value.items()} if key == "properties" else close(value)
    if node.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
        out.pop("pattern", None)
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    open_object = "additionalProperties" in out or node.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in out and out.get("type") == "object" and not open_object:
        out["additionalProperties"] = False
    return out


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        crd = yaml.safe_load(file)
    version = next(v for v in crd["spec"]["versions"] if v["name"] == sys.argv[2])
    schema = close(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    schema["properties"].pop("status", None)
    print(json.dumps(schema, sort_keys=True, separators=(",", ":")))


if __name__ == "__main__":
    main()
