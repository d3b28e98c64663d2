#!/usr/bin/env python3
"""Makes deploy/helm/choir/README.md from values.yaml: each value has a comment `# -- ...` above it; --check only compares.
Needs PyYAML."""
import pathlib
import re
import sys

import yaml

CHART = pathlib.Path(__file__).parent / "choir"
HEAD = """# Chart `choir`

Routers with their audit logs, gateways beside them, groups of workers. How to install it: [docs/deploy.md](../../../docs/deploy.md).
Wrong values are refused: misspelt or of a wrong type by `values.schema.json`, those that do not go together by the chart, with the reason.
So is what the programs would refuse at their start, what an API server would, and values that nothing would come of; `helm lint deploy/helm/choir -f FILE`
says the same. Examples are in `ci/`.

Not refused, though they may do nothing: what stands beside an `enabled: false`; `redis.existingSecret` without limits here, as keys may carry limits;
`image.tag` beside `image.digest`, which wins; `worker.groups` with an autoscaler, which sets the number. `null` is no way back to a default
(`missing property`): leave the value out.

```sh
helm install choir deploy/helm/choir --set image.repository=registry.example.org/choir --set keysSecret=choir-keys --set model.claimName=models
```

## Values
Made from `values.yaml` by `deploy/helm/make_readme.py`.

| value | default | |
|---|---|---|
"""


def documented(lines):
    """(path, comment) of each value that has a comment, in order."""
    stack, comment = [], []
    for line in lines:
        text = line.strip()
        if text.startswith("# -- "):
            comment = [text[5:]]
        elif text.startswith("# ") and comment:
            comment.append(text[2:])
        elif match := re.match(r"( *)([A-Za-z]+):", line):
            depth = len(match.group(1)) // 2
            stack = [*stack[:depth], match.group(2)]
            if comment:
                yield ".".join(stack), " ".join(comment)
            comment = []
        else:
            comment = []


def leaves(values, path=()):
    for key, value in values.items():
        if isinstance(value, dict) and value and path + (key,) not in RESOURCES:
            yield from leaves(value, path + (key,))
        else:
            yield ".".join(path + (key,)), value


RESOURCES = {(part, "resources") for part in ("router", "gateway", "worker")}


def text():
    source = (CHART / "values.yaml").read_text()
    comments = dict(documented(source.splitlines()))
    values = dict(leaves(yaml.safe_load(source)))
    missing = sorted(set(values) - set(comments))
    if missing:
        sys.exit(f"values.yaml: no comment for {', '.join(missing)}")
    rows = []
    for path, value in values.items():
        shown = yaml.safe_dump(value, default_flow_style=True, width=1000).split("\n")[0]
        rows.append(f"| `{path}` | `{shown}` | {comments[path].replace('|', chr(92) + '|')} |")
    return HEAD + "\n".join(rows) + "\n"


def main():
    readme = CHART / "README.md"
    wanted = text()
    if "--check" in sys.argv:
        if not readme.exists() or readme.read_text() != wanted:
            sys.exit("deploy/helm/choir/README.md is not what values.yaml says: run deploy/helm/make_readme.py")
    else:
        readme.write_text(wanted)


if __name__ == "__main__":
    main()
