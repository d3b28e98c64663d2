#!/usr/bin/env python3
"""Makes the generated manifests of deploy/k8s from the chart, so that both are the same objects; --check only compares.
Needs the environment of tools/python-env deploy."""
import pathlib
import sys

import helm_python as helm
import yaml

HERE = pathlib.Path(__file__).parent
CHART = HERE.parent / "helm" / "choir"
HEADER = "# Made by deploy/k8s/make.py from {}; edit that, or patch in an overlay.\n"
HELMS_LABELS = ("app.kubernetes.io/managed-by", "helm.sh/chart")


class Dumper(yaml.SafeDumper):
    """Lists are indented; texts of several lines are blocks."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)


Dumper.add_representer(str, lambda d, s: d.represent_scalar("tag:yaml.org,2002:str", s, style="|" if "\n" in s else None))


def objects(values_file):
    values = yaml.safe_load(values_file.read_text())
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name="choir", namespace="default")
    for path, text in sorted(files.items()):
        if not path.endswith(".yaml"):
            continue
        for obj in yaml.safe_load_all(text):
            if obj:
                for label in HELMS_LABELS:
                    obj["metadata"]["labels"].pop(label, None)
                yield pathlib.Path(path).name, obj


def texts():
    """Every generated file and what has to be in it."""
    base_values = HERE / "values" / "base.yaml"
    base = {}
    for name, obj in objects(base_values):
        base.setdefault(name, []).append(obj)
    for name, listed in base.items():
        yield HERE / "base" / name, HEADER.format("values/base.yaml") + yaml.dump_all(listed, Dumper=Dumper, sort_keys=False, width=120)
    listed = "".join(f"  - {name}\n" for name in sorted(base))
    yield HERE / "base" / "kustomization.yaml", (HEADER.format("values/base.yaml") +
        f"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{listed}")
    gpu = [o for _, o in objects(HERE / "values" / "gpu-lws.yaml") if o["kind"] == "LeaderWorkerSet" or
           (o["kind"], o["metadata"]["name"]) == ("ConfigMap", "choir-worker")]
    yield (HERE / "overlays" / "gpu-lws" / "leaderworkerset.yaml",
           HEADER.format("values/gpu-lws.yaml") + yaml.dump_all(gpu, Dumper=Dumper, sort_keys=False, width=120))


def main():
    stale = []
    for path, text in texts():
        if path.exists() and path.read_text() == text:
            continue
        stale.append(path.relative_to(HERE))
        if "--check" not in sys.argv:
            path.write_text(text)
    known = {p for p, _ in texts()}
    stale += [p.relative_to(HERE) for p in (HERE / "base").iterdir() if p not in known]
    if stale and "--check" in sys.argv:
        sys.exit(f"deploy/k8s: not what the chart renders, run deploy/k8s/make.py: {', '.join(map(str, stale))}")


if __name__ == "__main__":
    main()
