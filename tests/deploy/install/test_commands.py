"""What the chart's containers are told is what the programs take: every command of every example, with its configuration
file, is given to the real program for a check."""
import os
import pathlib
import subprocess

import pytest

from conftest import BIN, MODEL, containers_of, of_kind, pod_of

LWS = {"LWS_LEADER_ADDRESS": "choir-worker-1.choir-worker.serving", "LWS_GROUP_SIZE": "16", "LWS_WORKER_INDEX": "3"}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """The files of the secrets that pods mount."""
    root = tmp_path_factory.mktemp("secrets")
    subprocess.run([BIN / "choir", "tls", "init", "--dir", root / "tls", "--host", "choir"], check=True, capture_output=True, timeout=60)
    for part in ("router", "gateway", "worker"):
        folder = root / f"{part}-tls"
        folder.mkdir()
        for source, target in ((f"{part}.pem", "tls.crt"), (f"{part}-key.pem", "tls.key"), ("ca.pem", "ca.crt")):
            (folder / target).write_bytes((root / "tls" / source).read_bytes())
            (folder / target).chmod(0o440)
    (root / "https").symlink_to(root / "gateway-tls")
    (root / "keys").mkdir()
    (root / "keys" / "keys.yaml").write_text("")
    (root / "redis").mkdir()
    (root / "redis" / "url").write_text("rediss://:secret@redis:6379/0\n")
    return root


def check(container, config, secrets, tmp_path, environment):
    args = [a.replace("/etc/choir/config", str(tmp_path)).replace("/etc/choir", str(secrets)).replace("$(POD_NAME)", "choir-worker-5")
            for a in container["args"]]
    args = [f"--model={MODEL}" if a.startswith("--model=") else a.replace("/var/lib/choir", str(tmp_path)) for a in args]
    (tmp_path / "choir.yaml").write_text(config)
    command = [BIN / pathlib.Path(container["command"][0]).name, *args, "--check-config"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


def test_every_command_is_taken(example, secrets, tmp_path):
    _, objects = example
    for obj in objects:
        pod = pod_of(obj)
        if pod is None:
            continue
        for container in containers_of(pod):
            names = [v["configMap"]["name"] for v in pod["spec"]["volumes"] if "configMap" in v]
            config = "".join(of_kind(objects, "ConfigMap", n)[0]["data"]["choir.yaml"] for n in names)
            done = check(container, config, secrets, tmp_path, LWS if obj["kind"] == "LeaderWorkerSet" else {})
            assert done.returncode == 0, (obj["metadata"]["name"], container["name"], done.stderr)
