"""A part that cannot start stays where it is told to (--retry-start): alive, not ready, with the reason in /readyz;
it starts by itself once the reason is gone."""
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess

import pytest
from commands import add_key
from conftest import BIN, CHECKPOINTS, admin_page, eventually, own_host, status_page


def free_port(host):
    with socket.socket() as s:
        s.bind((host, 0))
        return s.getsockname()[1]


@pytest.fixture
def start(tmp_path):
    host = own_host(9)
    begun = []

    def run(program, *arguments, admin=None):
        admin = admin or f"{host}:{free_port(host)}"
        with open(tmp_path / f"{program}.log", "wb") as log:
            model = () if program == "choir-gateway" else ("--model", tmp_path / "model")
            command = [BIN / program, "--listen", f"{host}:0", "--admin", admin, *model, *arguments]
            process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=log)
        begun.append(process)
        return process, admin

    yield run
    for process in begun:
        process.kill()
        process.wait()


def says(admin, status, word):
    answer = admin_page(admin)
    return answer is not None and answer[0] == status and word in answer[1]


def test_a_worker_without_its_model_waits_for_it(tmp_path, start):
    worker, admin = start("choir-worker", "--retry-start", "1s")
    eventually(lambda: says(admin, 503, "cannot start") and says(admin, 503, str(tmp_path / "model")), what="the reason")
    eventually(lambda: (admin_page(admin, "/livez") or (0,))[0] == 200, what="a live process")
    shutil.copytree(CHECKPOINTS / "tiny_glm4_moe", tmp_path / "staged")
    (tmp_path / "staged").rename(tmp_path / "model")
    eventually(lambda: says(admin, 200, ""), 120, what="a ready worker")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0


def fill(pipe):
    """Until nobody can write to it any more."""
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    for chunk in (b"\n" * 4096, b"\n"):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, chunk)
    os.close(writer)


def drain(reader):
    with contextlib.suppress(BlockingIOError):
        while os.read(reader, 1 << 16):
            pass


def test_a_failed_start_is_told_until_one_succeeds_also_while_the_next_try_loads(tmp_path, start):
    log = tmp_path / "choir-worker.log"
    os.mkfifo(log)  # what is logged waits for us to read: so a try takes as long as we like
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    worker, admin = start("choir-worker", "--retry-start", "1s")
    said = bytearray()

    def told(word):
        with contextlib.suppress(BlockingIOError):
            said.extend(os.read(reader, 1 << 16))
        return word in said

    eventually(lambda: told(b"tries again in 1 s"), what="a failed try")
    fill(log)
    eventually(lambda: says(admin, 503, "loading the model"), what="the next try, which is stuck")
    assert says(admin, 503, f"the try before this one: {tmp_path / 'model'}")
    assert "\nchoir_start_failed 1\n" in admin_page(admin, "/metrics")[1]
    shutil.copytree(CHECKPOINTS / "tiny_glm4_moe", tmp_path / "staged")
    (tmp_path / "staged").rename(tmp_path / "model")
    eventually(lambda: (drain(reader), says(admin, 200, ""))[1], 120, what="a ready worker")
    assert "\nchoir_start_failed 0\n" in admin_page(admin, "/metrics")[1]
    worker.send_signal(signal.SIGTERM)
    eventually(lambda: (drain(reader), worker.poll())[1] == 0, 60, what="the end")
    os.close(reader)


@pytest.fixture
def tls(tmp_path):
    """A folder of certificates whose keys nobody can read as such."""
    subprocess.run([BIN / "choir", "tls", "init", "--dir", tmp_path / "tls", "--host", "localhost"], check=True, capture_output=True)
    for key in (tmp_path / "tls").glob("*-key.pem"):
        key.rename(key.with_suffix(".good"))
        key.write_text("no key")
        key.chmod(0o600)
    return tmp_path / "tls"


@pytest.mark.parametrize("part", ["worker", "router", "gateway"])
def test_a_part_whose_key_cannot_be_read_says_so_and_starts_once_it_can(tmp_path, start, tls, part):
    shutil.copytree(CHECKPOINTS / "tiny_glm4_moe", tmp_path / "model")
    (tmp_path / "keys.yaml").write_text("keys: []")
    (tmp_path / "keys.yaml").chmod(0o600)
    prefix = "router-" if part == "gateway" else ""
    files = [f"--{prefix}tls-{what}={tls / name}" for what, name in
             (("cert", f"{part}.pem"), ("key", f"{part}-key.pem"), ("ca", "ca.pem"))]
    own = {"worker": (), "gateway": ("--router", "127.0.0.1:1"),
           "router": ("--keys", tmp_path / "keys.yaml", "--worker", "127.0.0.1:1", "--audit-dir", tmp_path / "audit")}[part]
    process, admin = start(f"choir-{part}", *own, *files, "--retry-start", "1s")
    eventually(lambda: says(admin, 503, "cannot start") and says(admin, 503, f"{part}-key.pem"), what="the reason")
    eventually(lambda: (admin_page(admin, "/livez") or (0,))[0] == 200, what="a live process")
    assert f"{part}-key.pem" in (tmp_path / f"choir-{part}.log").read_text()
    metrics = eventually(lambda: (admin_page(admin, "/metrics") or ("", ""))[1], what="metrics")
    assert "\nchoir_start_failed 1\n" in metrics and f'choir_build_info{{part="{part}"' in metrics
    (tls / f"{part}-key.good").rename(tls / f"{part}-key.pem")
    ready = (200, "") if part == "worker" else (503, "127.0.0.1:1")  # those only lack whom they dial
    eventually(lambda: says(admin, *ready), 120, what="a start")
    assert "\nchoir_start_failed 0\n" in admin_page(admin, "/metrics")[1]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_a_gateway_that_waits_ends_when_told(start, tls):
    gateway, admin = start("choir-gateway", "--tls-cert", tls / "gateway.pem", "--tls-key", tls / "gateway-key.pem", "--retry-start", "1h")
    eventually(lambda: says(admin, 503, "gateway-key.pem"), what="the reason")
    gateway.send_signal(signal.SIGTERM)
    assert gateway.wait(60) == 0


def test_a_taken_admin_port_is_waited_for(tmp_path, start):
    host = own_host(8)
    log = tmp_path / "choir-gateway.log"
    with socket.create_server((host, 0)) as other:
        gateway, admin = start("choir-gateway", "--router", "127.0.0.1:1", "--retry-start", "1s", admin=f"{host}:{other.getsockname()[1]}")
        eventually(lambda: log.read_text().count("tries again in 1 s") > 1, what="two tries")
        assert f"not in /readyz: {admin} cannot be used" in log.read_text()
    eventually(lambda: says(admin, 503, "no router"), what="a start")
    gateway.send_signal(signal.SIGTERM)
    assert gateway.wait(60) == 0
    never, _ = start("choir-gateway", "--retry-start", "1h", admin="nonsense")
    assert never.wait(60) == 1


def test_a_worker_with_other_weights_than_it_should_have_says_both_digests(tmp_path, start):
    shutil.copytree(CHECKPOINTS / "tiny_glm4_moe", tmp_path / "model")
    told = subprocess.run([BIN / "choir", "model", "info", "--json", "--digest", tmp_path / "model"], check=True, capture_output=True).stdout
    digest = json.loads(told)["weights_digest"]
    worker, admin = start("choir-worker", "--retry-start", "1s", "--weights-digest", "0" * 64)
    eventually(lambda: says(admin, 503, f"is {digest}, but {'0' * 64} is wanted"), what="the reason")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    worker, admin = start("choir-worker", "--weights-digest", digest)
    eventually(lambda: says(admin, 200, ""), 120, what="a ready worker")
    assert status_page(admin)["weights_digest"] == digest
    assert start("choir-worker", "--weights-digest", digest[:-1])[0].wait(60) == 2


@pytest.mark.parametrize("arguments,says", [
    (("--ranks", 2, "--device", "cpu", "--redundant-experts", 6), "redundant_experts 6 is not in 0..5"),
    (("--context-length", 257), "context_length 257 is not in 0..256"),
    (("--kv-bytes", "12TiB"), "kv_bytes 13194139533312 (--kv-bytes): the memory of this machine")])
def test_options_that_the_model_forbids_are_refused_before_its_weights_are_read(tmp_path, start, arguments, says):
    shutil.copytree(CHECKPOINTS / "tiny_glm4_moe", tmp_path / "model")
    assert start("choir-worker", *arguments)[0].wait(60) == 1
    log = (tmp_path / "choir-worker.log").read_text()
    assert says in log and "MiB" not in log, log  # not "loading 0 of 1 MiB" either


def test_a_router_without_its_keys_waits_for_them_and_ends_when_told(tmp_path, start):
    shutil.copytree(CHECKPOINTS / "tiny_glm4_moe", tmp_path / "model")
    arguments = ("--keys", tmp_path / "keys.yaml", "--worker", "127.0.0.1:1", "--audit-dir", tmp_path / "audit")
    router, admin = start("choir-router", *arguments, "--retry-start", "1s")
    eventually(lambda: says(admin, 503, "keys.yaml"), what="the reason")
    assert "stays in force" not in (tmp_path / "choir-router.log").read_text()  # nothing was read before
    add_key(tmp_path, "acme")
    eventually(lambda: says(admin, 503, "127.0.0.1:1"), 120, what="a router that only lacks its worker")
    router.send_signal(signal.SIGTERM)
    assert router.wait(60) == 0
    (tmp_path / "keys.yaml").unlink()
    router, admin = start("choir-router", *arguments, "--retry-start", "1h")
    eventually(lambda: says(admin, 503, "keys.yaml"), what="the reason")
    router.send_signal(signal.SIGTERM)
    assert router.wait(60) == 0


def test_a_router_without_the_files_of_its_redis_waits_for_them(tmp_path, start):
    shutil.copytree(CHECKPOINTS / "tiny_glm4_moe", tmp_path / "model")
    add_key(tmp_path, "acme")
    arguments = ("--keys", tmp_path / "keys.yaml", "--worker", "127.0.0.1:1", "--audit-dir", tmp_path / "audit",
                 "--redis-url-file", tmp_path / "url", "--redis-ca", tmp_path / "ca.pem")
    router, admin = start("choir-router", *arguments, "--retry-start", "1s")
    eventually(lambda: says(admin, 503, f"redis.url_file: there is no {tmp_path / 'url'}; write redis.url into it"), what="the reason")
    (tmp_path / "new").write_text("rediss://127.0.0.1:1\n")
    (tmp_path / "new").rename(tmp_path / "url")
    eventually(lambda: says(admin, 503, "ca.pem"), what="the next reason")
    subprocess.run([BIN / "choir", "tls", "init", "--dir", tmp_path / "tls", "--host", "localhost"], check=True, capture_output=True)
    shutil.copy(tmp_path / "tls" / "ca.pem", tmp_path / "new")
    (tmp_path / "new").rename(tmp_path / "ca.pem")
    eventually(lambda: says(admin, 503, "127.0.0.1:1"), 120, what="a router that only lacks its worker")
    router.send_signal(signal.SIGTERM)
    assert router.wait(60) == 0
    (tmp_path / "url").unlink()
    assert start("choir-router", *arguments)[0].wait(60) == 1


def test_without_the_option_it_ends(tmp_path, start):
    worker, _ = start("choir-worker")
    assert worker.wait(60) == 1
