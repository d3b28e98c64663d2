"""The plain manifests: what the chart renders, overlays that build and are valid, generated files that are current."""
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from conftest import KUBERNETES, ROOT, argument, check_object, containers_of, kustomize, of_kind, pod_of, the

K8S = ROOT / "deploy" / "k8s"
FOLDERS = [K8S / "base", *sorted((K8S / "overlays").iterdir())]


def run(script, *arguments):
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", ["deploy/k8s/make.py", "deploy/helm/make_readme.py"])
def test_generated_files_are_current(script):
    done = run(ROOT / script, "--check")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_every_object_is_valid_in_every_version(folder):
    objects = kustomize(folder)
    assert {"StatefulSet", "Service", "NetworkPolicy", "ServiceAccount", "ConfigMap"} <= {o["kind"] for o in objects}
    for version in KUBERNETES:
        for obj in objects:
            check_object(obj, version)


def test_cpu_small_is_one_router_and_one_rank():
    objects = kustomize(K8S / "overlays" / "cpu-small")
    assert the(objects, "StatefulSet", "choir-router")["spec"]["replicas"] == 1
    worker = the(objects, "StatefulSet", "choir-worker")
    assert worker["spec"]["replicas"] == 1 and "rollingUpdate" not in worker["spec"]["updateStrategy"]
    (container,) = containers_of(pod_of(worker))
    assert argument(container, "ranks") == ["1"] and argument(container, "threads") == ["1"]


def test_edge_runs_on_arm64_from_the_disk_of_the_node():
    objects = kustomize(K8S / "overlays" / "edge")
    assert not of_kind(objects, "PodDisruptionBudget")
    for name in ("choir-router", "choir-worker"):
        spec = pod_of(the(objects, "StatefulSet", name))["spec"]
        assert spec["nodeSelector"] == {"kubernetes.io/arch": "arm64"}
        (model,) = [v for v in spec["volumes"] if v["name"] == "model"]
        assert model == {"name": "model", "hostPath": {"path": "/srv/choir/model", "type": "Directory"}}


def test_gpu_groups_are_leader_worker_sets():
    objects = kustomize(K8S / "overlays" / "gpu-lws")
    assert [o["metadata"]["name"] for o in of_kind(objects, "StatefulSet")] == ["choir-router"]
    template = the(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    (container,) = containers_of(template["workerTemplate"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1" and container["image"] == "choir-cuda:0.1.0"


def test_the_images_of_the_documents_example_are_those_of_the_overlay(tmp_path):
    """An overlay of one's own, with the images that docs/deploy.md shows."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    cpu, cuda = re.search(r"images: \[({name: choir, .*?})\]", text).group(1), re.search(r"{name: choir-cuda, .*?}", text).group(0)
    own = tmp_path / "overlays" / "own"
    own.mkdir(parents=True)
    shutil.copytree(K8S / "base", tmp_path / "base")
    shutil.copytree(K8S / "overlays" / "gpu-lws", tmp_path / "overlays" / "gpu-lws")
    (own / "kustomization.yaml").write_text(f"resources: [../gpu-lws]\nimages: [{cpu}, {cuda}]\n")
    images = {c["image"] for o in kustomize(own) if pod_of(o) for c in containers_of(pod_of(o))}
    assert images == {"registry.example.org/choir:0.1.0", "registry.example.org/choir-cuda:0.1.0"}


def test_a_gateway_joins_an_application(tmp_path):
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment",
                  "metadata": {"name": "app", "labels": {"choir.dev/gateway": "sidecar"}},
                  "spec": {"selector": {"matchLabels": {"app": "app"}},
                           "template": {"metadata": {"labels": {"app": "app"}},
                                        "spec": {"containers": [{"name": "app", "image": "app:1"}]}}}}
    app = pathlib.Path(tmp_path) / "app"
    app.mkdir()
    (app / "app.yaml").write_text(yaml.safe_dump(deployment))
    component = tmp_path / "gateway-sidecar"
    component.mkdir()
    for source in (K8S / "components" / "gateway-sidecar").iterdir():
        (component / source.name).write_text(source.read_text())
    (app / "kustomization.yaml").write_text("resources: [app.yaml]\ncomponents: [../gateway-sidecar]\n")
    (patched,) = kustomize(app)
    for version in KUBERNETES:
        check_object(patched, version)
    pod = pod_of(patched)
    assert pod["metadata"]["labels"] == {"app": "app", "choir.dev/router-client": "true"}
    assert [c["name"] for c in containers_of(pod)] == ["choir-gateway", "app"]
