"""Every process of a cluster is replaced by a new one, one after the other, under a load of streams: no request fails, and
every answer is the undisturbed run's, byte for byte."""
import http.client
import signal
import subprocess

from conftest import BIN, eventually
from kill_streams import kinds
from rolling import Load, Parts
from streams import long_model

CLIENTS = 6
TOKENS = 60


def test_every_part_is_replaced_under_load_and_no_client_sees_it(tmp_path):
    parts = Parts(tmp_path, long_model(tmp_path), groups=2, ranks=2, routers=2, gateways=2)
    try:
        load = Load(parts, kinds(9, TOKENS), CLIENTS)
        load.goes_on(CLIENTS)
        for part in [*parts.workers, *parts.routers, *parts.gateways]:
            if part in parts.gateways:
                load.out_of_rotation(part)
            part.end()
            part.start()
            eventually(parts.complete, 120, f"a ready cluster after {part.name}")
            if part in parts.gateways:
                load.back(part)
            load.goes_on(CLIENTS)
            assert not load.wrong, (part.name, load.wrong, parts.logs())
        load.end()
        assert not load.wrong, (load.wrong, parts.logs())
        print(f"{load.answered} streams, {len(parts.all)} parts replaced")
        eventually(lambda: all(w.metric("choir_requests_running") == 0 for w in parts.workers), what="idle workers")
        assert not any(p.metric("choir_ledger_difference") for p in parts.all)
        for part in reversed(parts.all):
            part.end()
        for i in range(2):
            done = subprocess.run([BIN / "choir", "audit", "verify", tmp_path / f"audit-{i}"], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    finally:
        parts.stop()


def get(address, path, headers=None):
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    response.read()
    return response


def test_notice_is_given_before_anything_is_refused(tmp_path):
    parts = Parts(tmp_path, long_model(tmp_path), groups=1, ranks=1, routers=1, gateways=0)
    gateway = parts.add("gateway", "choir-gateway", "--router", parts.routers[0].grpc_or_http, "--drain-notice", "10m")
    try:
        eventually(gateway.ready, what="a ready gateway")
        key = {"authorization": f"Bearer {parts.key}"}
        assert get(gateway.grpc_or_http, "/v1/models", key).headers["connection"] != "close"
        gateway.process.send_signal(signal.SIGTERM)
        eventually(lambda: get(gateway.admin, "/readyz").status == 503, what="the notice")
        response = get(gateway.grpc_or_http, "/v1/models", key)  # served, but not kept
        assert response.status == 200 and response.headers["connection"] == "close"
        gateway.process.send_signal(signal.SIGTERM)  # a second one ends it
        assert gateway.process.wait(60) == 0
    finally:
        parts.stop()
