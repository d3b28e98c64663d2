"""Tests of deploy/: the chart is rendered by Helm itself, manifests by kubectl's kustomize, every object is checked strictly
against the schemas of Kubernetes and of the projects whose custom resources are used."""
import functools
import json
import os
import pathlib
import subprocess
import sys

import helm_python as helm
import jsonschema
import kubernetes_validate
import kubernetes_validate.utils
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = pathlib.Path(os.environ.get("CHOIR_BIN", ROOT / "build" / "release" / "bin"))
MODEL = ROOT / "tests" / "golden" / "checkpoints" / "tiny_glm4_moe"
CHART = ROOT / "deploy" / "helm" / "choir"
SCHEMAS = pathlib.Path(__file__).parent / "schemas"
KUBERNETES = ("1.34", "1.35", "1.36", "1.37")  # what the chart is made for
# It reads all definitions of a version anew for every object: ten times as slow.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)
NEEDED = {"keysSecret": "choir-keys", "model": {"claimName": "models", "path": "/models/demo"}}


def merged(base, more):
    out = dict(base)
    for key, value in more.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def documents(text):
    return [d for d in yaml.safe_load_all(text) if d]


def render(values, name="choir", namespace="serving"):
    """All objects of a release, as Helm renders them."""
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name=name, namespace=namespace)
    return [d for path, text in sorted(files.items()) if path.endswith(".yaml") for d in documents(text)]


def needed(**values):
    return merged(NEEDED, values)


def refusal(values):
    """What Helm says of values that it refuses; empty: they are rendered."""
    try:
        render(values)
    except helm.HelmError as error:
        return str(error)
    return ""


def of_kind(objects, kind, name=None):
    return [o for o in objects if o["kind"] == kind and (name is None or o["metadata"]["name"] == name)]


def the(objects, kind, name=None):
    found = of_kind(objects, kind, name)
    assert len(found) == 1, (kind, name, [o["metadata"]["name"] for o in of_kind(objects, kind)])
    return found[0]


def pod_of(obj):
    """The pod template of a workload; None: it is none."""
    spec = obj.get("spec") or {}
    return spec.get("template") or spec.get("leaderWorkerTemplate", {}).get("workerTemplate") \
        if obj["kind"] in ("StatefulSet", "Deployment", "DaemonSet", "LeaderWorkerSet") else None


def containers_of(pod):
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


def argument(container, flag):
    """Values of --flag=..., in order."""
    return [a.split("=", 1)[1] for a in container["args"] if a.startswith(f"--{flag}=")]


def _pod_templates(schema, value):
    """Values below that the schema leaves to Kubernetes' own."""
    if isinstance(schema, dict) and schema.get("x-pod-template"):
        return [value]
    found = []
    for key, sub in (schema.get("properties") or {}).items():
        if isinstance(value, dict) and key in value:
            found += _pod_templates(sub, value[key])
    return found


def check_object(obj, version):
    """Raises when an API server of that version, decoding strictly, would refuse the object's fields or types."""
    group, _, api = obj["apiVersion"].rpartition("/")
    path = SCHEMAS / f"{obj['kind'].lower()}-{group}-{api}.json"
    if not path.exists():
        kubernetes_validate.validate(obj, version, strict=True)  # SchemaNotFoundError where it has none
        return
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator(schema).validate(obj)
    for template in _pod_templates(schema, obj):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"}, "template": template},
                                     version, strict=True)


def kustomize(folder):
    """All objects of a folder, as kubectl renders them."""
    kubectl = pathlib.Path(sys.executable).parent / "kubectl"
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def examples():
    return sorted((CHART / "ci").glob("*-values.yaml"))


@pytest.fixture(params=examples(), ids=lambda p: p.stem)
def example(request):
    """Values of an example, and what they render."""
    values = yaml.safe_load(request.param.read_text())
    return values, render(values)
