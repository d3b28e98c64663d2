"""The image: small, reproducible, without a shell; and a chat request through it, as an ordinary user on a read-only root.

It is built of CHOIR_BIN (default build/release/bin) by buildah, unpacked here and run by crun; both need root."""
import hashlib
import json
import os
import pathlib
import shutil
import stat
import subprocess
import tarfile
import threading
import time

import openai
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from conftest import BIN, MODEL, ROOT

USER = 65532

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="building and running the image here needs root")


def build(out):
    subprocess.run([ROOT / "deploy" / "image" / "build", "--bin", BIN, "--out", out], check=True, timeout=300)
    return (out / "digest").read_text()


def blob(layout, digest):
    algorithm, value = digest.split(":")
    path = layout / "blobs" / algorithm / value
    assert hashlib.sha256(path.read_bytes()).hexdigest() == value
    return path


def manifest_of(layout):
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(layout, entry["digest"]).read_text())
    return manifest, json.loads(blob(layout, manifest["config"]["digest"]).read_text())


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    out = tmp_path_factory.mktemp("image") / "first"
    build(out)
    return out


@pytest.fixture(scope="module")
def rootfs(image, tmp_path_factory):
    root = tmp_path_factory.mktemp("unpacked") / "rootfs"
    manifest, _ = manifest_of(image / "oci")
    for layer in manifest["layers"]:
        with tarfile.open(blob(image / "oci", layer["digest"])) as archive:
            archive.extractall(root, numeric_owner=True)
    return root


def test_two_builds_give_one_digest(image, tmp_path):
    assert build(tmp_path / "second") == (image / "digest").read_text()


def test_its_size_and_settings(image):
    manifest, config = manifest_of(image / "oci")
    assert sum(layer["size"] for layer in manifest["layers"]) <= 60_000_000
    assert config["config"]["User"] == f"{USER}:{USER}" and config["config"]["Entrypoint"] == ["/usr/bin/choir"]
    assert config["config"]["Labels"]["org.opencontainers.image.version"]


def test_it_holds_no_shell_and_nothing_that_raises_rights(rootfs):
    programs = sorted(p.name for p in (rootfs / "usr" / "bin").iterdir())
    assert programs == ["choir", "choir-gateway", "choir-router", "choir-worker"]
    for path in rootfs.rglob("*"):
        info = path.lstat()
        assert not info.st_mode & (stat.S_ISUID | stat.S_ISGID), path
        assert stat.S_ISLNK(info.st_mode) or info.st_uid == 0 or path.is_relative_to(rootfs / "var" / "lib" / "choir"), path
        assert not stat.S_ISREG(info.st_mode) or not info.st_mode & stat.S_IWOTH, path


def test_the_bill_of_materials_is_valid_and_names_what_is_in_it(image, rootfs):
    text = (image / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) is None
    assert (rootfs / "usr/share/choir/sbom.cdx.json").read_text() == text
    components = json.loads(text)["components"]
    listed = {p["value"] for c in components for p in c.get("properties", []) if p["name"] == "choir:file"}
    libraries = {"/" + str(p.relative_to(rootfs)) for p in rootfs.rglob("*.so*") if p.is_file()}
    assert listed == libraries
    for component in components:
        if component["type"] == "file":
            content = (rootfs / component["name"].lstrip("/")).read_bytes()
            assert component["hashes"][0]["content"] == hashlib.sha256(content).hexdigest()
        else:
            assert (rootfs / "usr/share/doc" / component["name"] / "copyright").exists(), component["name"]


class Container:
    """Runs a command in the unpacked image: ordinary user, no capabilities, read-only root, the host's network."""

    def __init__(self, rootfs, work, command):
        self.crun = ["crun", "--root", str(work / "crun"), "--cgroup-manager=disabled"]
        self.id = f"choir-{os.getpid()}-{work.name}"
        self.state = work / "state"
        self.state.mkdir()
        os.chown(self.state, USER, USER)
        bundle = work / "bundle"
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(self.config(rootfs, command)))
        self.output = open(work / "output", "wb")
        run = " ".join(self.crun + ["run", "--bundle", str(bundle), self.id])
        # crun refuses the mixed cgroups that some hosts have, also where it uses none.
        script = f"umount /sys/fs/cgroup/unified 2>/dev/null; exec {run}"
        self.process = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c", script],
                                        stdout=self.output, stderr=subprocess.STDOUT)

    def config(self, rootfs, command):
        tmpfs = {"type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777", "size=256m"]}
        return {
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": USER, "gid": USER}, "args": command, "cwd": "/var/lib/choir", "noNewPrivileges": True,
                        "env": ["PATH=/usr/bin", "HOME=/var/lib/choir"],
                        "capabilities": {k: [] for k in ("bounding", "effective", "inheritable", "permitted", "ambient")}},
            "root": {"path": str(rootfs), "readonly": True},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                       {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
                       {"destination": "/dev/shm", **tmpfs}, {"destination": "/tmp", **tmpfs},
                       {"destination": "/models", "type": "bind", "source": str(MODEL), "options": ["rbind", "ro"]},
                       {"destination": "/var/lib/choir", "type": "bind", "source": str(self.state), "options": ["rbind", "rw"]}],
            "linux": {"namespaces": [{"type": t} for t in ("mount", "pid", "ipc", "uts")]}}

    def text(self):
        return pathlib.Path(self.output.name).read_text(errors="replace")

    def stop(self):
        subprocess.run(self.crun + ["kill", self.id, "TERM"], capture_output=True, timeout=60)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            subprocess.run(self.crun + ["delete", "--force", self.id], capture_output=True, timeout=60)
            self.process.kill()
            self.process.wait()
        self.output.close()
        return self.process.returncode


def wait_for(path, container, timeout=120):
    pause, end = threading.Event(), time.monotonic() + timeout
    while not (path.exists() and path.stat().st_size):
        assert container.process.poll() is None, container.text()
        assert time.monotonic() < end, container.text()
        pause.wait(0.05)


@pytest.mark.parametrize("program", ["choir", "choir-router", "choir-worker", "choir-gateway"])
def test_every_program_starts_in_it(rootfs, tmp_path, program):
    container = Container(rootfs, tmp_path, [f"/usr/bin/{program}", "--version"])
    assert container.process.wait(60) == 0, container.text()
    assert container.text().startswith(program), container.text()
    container.output.close()


def test_a_chat_request_goes_through_it(rootfs, tmp_path):
    assert shutil.which("crun"), "crun is missing: tools/install-packages tools/packages-tests.txt"
    container = Container(rootfs, tmp_path, [
        "/usr/bin/choir", "up", "--model", "/models", "--model-name", "tiny", "--ranks", "2", "--listen", "127.0.0.1:0",
        "--state", "/var/lib/choir/cluster", "--ready-file", "/var/lib/choir/ready.json"])
    try:
        wait_for(container.state / "ready.json", container)
        ready = json.loads((container.state / "ready.json").read_text())
        client = openai.OpenAI(base_url=ready["url"] + "/v1", api_key=ready["api_key"], timeout=60, max_retries=0)
        answer = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=8, temperature=0)
        assert answer.usage.completion_tokens >= 1 and answer.choices[0].finish_reason in ("stop", "length")
    finally:
        code = container.stop()
    assert code == 0, container.text()
