"""`choir up` beside others of its kind, and what it makes of the sections of its parts."""
import concurrent.futures
import subprocess

import pytest

from conftest import BIN, CHECKPOINTS, Cluster, eventually


def test_clusters_that_start_at_once_do_not_fight_for_ports(tmp_path):
    def start(name):
        folder = tmp_path / name
        folder.mkdir()
        return Cluster(folder, ranks=1)

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        clusters = list(threads.map(start, "abcd"))
    try:
        addresses = {c.ready["router"] for c in clusters} | {c.ready["metrics"]["gateway"] for c in clusters}
        assert len(addresses) == 8
        assert all(c.serves() for c in clusters)
    finally:
        codes = [c.stop() for c in clusters]
    assert codes == [0] * 4


def check(tmp_path, config, *args):
    (tmp_path / "c.yaml").write_text(config)
    return subprocess.run([BIN / "choir", "up", "--model", CHECKPOINTS / "tiny_glm4_moe", "--state", tmp_path / "state", "--config", tmp_path / "c.yaml",
                           *args, "--check-config"], capture_output=True, text=True)


@pytest.mark.parametrize("part, key, value, remedy", [
    ("router", "listen", "127.0.0.1:1", "leave it out"), ("router", "workers", "[a:1]", "workers_file"), ("router", "model", "/x", "up.model"),
    ("worker", "admin", "127.0.0.1:1", "leave it out"), ("worker", "ranks", "2", "--ranks"), ("gateway", "listen", "127.0.0.1:1", "--listen"),
    ("gateway", "routers", "[a:1]", "leave it out")])
def test_what_only_up_can_set_is_refused_by_name(tmp_path, part, key, value, remedy):
    out = check(tmp_path, f"{part}: {{{key}: {value!r}}}\n".replace("'[", "[").replace("]'", "]"))
    assert out.returncode == 2 and f"{part}.{key} cannot be set under choir up" in out.stderr and remedy in out.stderr, out.stderr


def test_certificates_of_clients_need_tls_which_up_can_make(tmp_path):
    config = "router: {certificates: [{spiffe: 'spiffe://elsewhere/client', tenant: acme}]}\n"
    plain = check(tmp_path, config)
    assert plain.returncode == 2 and "certificates: clients show them over TLS only" in plain.stderr
    made = check(tmp_path, config, "--tls", "on")
    assert made.returncode == 0, made.stderr
    assert not (tmp_path / "state").exists()
    taken = check(tmp_path, "router: {tls: {cert: a.pem, key: b.pem}}\n", "--tls", "on")
    assert taken.returncode == 2 and "router.tls.cert cannot be set under choir up" in taken.stderr


def test_keys_and_audit_log_may_lie_elsewhere(tmp_path):
    config = f"router: {{keys: {tmp_path}/own/keys.yaml, audit: {{dir: {tmp_path}/disk/audit, keys_dir: {tmp_path}/own/audit-keys}}}}\n"
    (tmp_path / "own").mkdir()
    cluster = Cluster(tmp_path, ranks=1, config=config)
    try:
        assert cluster.serves()
        assert "up-" in (tmp_path / "own/keys.yaml").read_text() and not (cluster.state / "keys.yaml").exists()
        assert (tmp_path / "own/audit-keys").is_dir() and list((tmp_path / "disk/audit").glob("segment-*"))
        assert not list((cluster.state / "audit").iterdir()) and not (cluster.state / "audit-keys").exists()
    finally:
        assert cluster.stop() == 0


def test_a_state_directory_that_cannot_be_used_is_not_called_used(tmp_path):
    (tmp_path / "state/lock").mkdir(parents=True)  # as root writes everywhere, a read-only one would not do
    out = subprocess.run([BIN / "choir", "up", "--model", CHECKPOINTS / "tiny_glm4_moe", "--state", tmp_path / "state"], capture_output=True, text=True)
    assert out.returncode == 1 and "cannot be opened: Is a directory" in out.stderr and "another choir up" not in out.stderr


def test_a_changed_key_that_needs_a_restart_is_named(tmp_path):
    cluster = Cluster(tmp_path, ranks=1, config="router: {max_requests: 100}\n")
    try:
        (tmp_path / "config.yaml").write_text("router: {max_requests: 200, limits: {default: {requests_per_second: 1000}}}\n")
        eventually(lambda: "taken up at the next start only: router.max_requests" in cluster.logs(), what="a line in the router's log")
    finally:
        assert cluster.stop() == 0
