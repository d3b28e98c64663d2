"""The units: systemd reads them without a word, their exposure is low, and their commands take the example's configuration."""
import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import BIN, MODEL, ROOT

UNITS = ROOT / "deploy" / "systemd"
NAMES = ["choir-router.service", "choir-gateway.service", "choir-worker@.service"]
EXPOSURE_MAX = {"choir-worker@.service": 2.5}  # it may use GPUs and memory that is shared by ranks

analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here (package systemd)")


def placed(tmp_path, name):
    """The unit with the programs of this build in it."""
    path = tmp_path / name
    path.write_text((UNITS / name).read_text().replace("/usr/bin/choir", f"{BIN}/choir"))
    return path


def command(name, rank="1"):
    text = (UNITS / name).read_text().replace("%i", rank)
    return re.search(r"^ExecStart=(.+)$", text, re.M).group(1).split()


@analyze
@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_nothing_to_say(tmp_path, name):
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", placed(tmp_path, name)], capture_output=True, text=True, timeout=60)
    said = [line for line in (done.stdout + done.stderr).splitlines() if name.split(".")[0].rstrip("@") in line]
    assert not said, said


@analyze
@pytest.mark.parametrize("name", NAMES)
def test_its_exposure_is_low(tmp_path, name):
    unit = placed(tmp_path, name)
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", unit], capture_output=True, text=True, timeout=60)
    (level,) = re.findall(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert float(level) <= EXPOSURE_MAX.get(name, 2.0), done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_configuration_ends_it_once(name):
    text = (UNITS / name).read_text()
    # systemd looks at the exit code of the main process only: a check in front would be tried again for ever.
    assert "RestartPreventExitStatus=2\n" in text and "ExecStartPre" not in text
    wrong = subprocess.run([BIN / pathlib.Path(command(name)[0]).name, "--config", "/nonexistent.yaml"], capture_output=True, timeout=60)
    assert wrong.returncode == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_example_is_taken(tmp_path, name):
    (tmp_path / "keys.yaml").write_text("")
    subprocess.run([BIN / "choir", "tls", "init", "--dir", tmp_path / "tls", "--host", "example.org"], check=True, timeout=60, capture_output=True)
    text = (UNITS / "choir.yaml").read_text().replace("/etc/choir", str(tmp_path)).replace("/srv/models/my-moe", str(MODEL))
    (tmp_path / "choir.yaml").write_text(text)
    argv = [a.replace("/usr/bin", str(BIN)).replace("/etc/choir", str(tmp_path)).replace("/var/lib", str(tmp_path)) for a in [*command(name), "--check-config"]]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_it_waits_for_the_drain(name):
    text = (UNITS / name).read_text()
    assert int(re.search(r"^TimeoutStopSec=(\d+)s$", text, re.M).group(1)) > 600 + 5 + 10  # drain_timeout, drain_notice, last words
