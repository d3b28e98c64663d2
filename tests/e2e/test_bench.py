"""`choir bench e2e` against a real cluster, `choir bench router` and `choir bench machine`: the figures agree with what was asked and counted."""
import json
import subprocess

import pytest

from conftest import BIN, eventually


def bench(*args):
    return subprocess.run([str(a) for a in (BIN / "choir", "bench", *args)], capture_output=True, text=True, timeout=120)


def test_load_is_what_was_asked_and_what_the_metrics_count(cluster):
    def counted():
        return cluster.metric(cluster.ready["metrics"]["gateway"], "choir_http_requests_total", route="/v1/completions", code="200") or 0

    before = counted()
    run = bench("e2e", "--state", cluster.state, "--requests", 12, "--streams", 3, "--prompt", "4..9", "--tokens", 5, "--json")
    assert run.returncode == 0, run.stderr + run.stdout
    result = json.loads(run.stdout)["result"]
    assert result["complete"] == 12 and result["errors"] == {}
    assert result["output_tokens"] == 60 and 48 <= result["prompt_tokens"] <= 108
    assert result["ttft"]["count"] == 12 and 0 < result["ttft"]["p50_s"] <= result["total"]["max_s"]
    eventually(lambda: counted() - before == 12, what="the count of the last answer")


def test_open_arrivals_take_as_long_as_their_rate_says(cluster):
    run = bench("e2e", "--state", cluster.state, "--requests", 6, "--prompt", 4, "--tokens", 2, "--arrival", "constant", "--rate", 10, "--json")
    assert json.loads(run.stdout)["result"]["seconds"] >= 0.5


def test_failed_requests_are_counted_and_exit_1(cluster):
    run = bench("e2e", "--state", cluster.state, "--requests", 2, "--prompt", 100000, "--tokens", 1, "--json")
    assert run.returncode == 1
    errors = json.loads(run.stdout)["result"]["errors"]
    assert sum(errors.values()) == 2 and all(key.startswith("400: ") for key in errors)


def test_bad_shapes_name_the_flag():
    run = bench("e2e", "--prompt", "9..4")
    assert run.returncode == 2 and "9..4" in run.stderr and "--prompt" in run.stderr


def test_what_router_and_gateway_add_is_measured_before_workers_of_known_time():
    run = bench("router", "--workers", 2, "--streams", 4, "--step-us", 5000, "--tokens", 10, "--prompt", 8, "--seconds", 0.5, "--json")
    assert run.returncode == 0, run.stderr + run.stdout
    out = json.loads(run.stdout)
    assert out["result"]["complete"] >= 8 and out["result"]["errors"] == {}
    assert out["added_ttft"]["count"] > 0 and 0 <= out["added_piece"]["p50_s"] < 0.005
    floor = out["floor"]
    assert floor["seconds"] == pytest.approx(6 * floor["tcp_hop_s"] + 8 * floor["thread_hop_s"] + 2 * floor["durable_append_s"])


def test_a_loop_that_is_slower_than_its_workers_ends_by_the_time():
    run = bench("router", "--workers", 1, "--streams", 32, "--step-us", 100, "--tokens", 1, "--prompt", 8, "--seconds", 1, "--json")
    assert run.returncode == 0, run.stderr + run.stdout
    result = json.loads(run.stdout)["result"]
    assert result["errors"] == {} and 32 <= result["complete"] < 32 / 0.0002  # as many as workers alone would do


def test_another_program_can_be_the_load():
    command = 'curl -sS -H "Authorization: Bearer $CHOIR_KEY" "$CHOIR_URL/v1/models"'
    run = bench("router", "--workers", 1, "--command", command)
    assert run.returncode == 0, run.stderr
    assert '"object":"model"' in run.stdout and "CPU of gateway and router: " in run.stdout
    run = bench("router", "--workers", 1, "--command", "exit 3")
    assert run.returncode == 1 and "--command" in run.stderr


def test_the_machine_has_limits(tmp_path):
    run = bench("machine", "--dir", tmp_path, "--json")
    assert run.returncode == 0, run.stderr
    figures = {f["name"]: f["value"] for f in json.loads(run.stdout)["figures"]}
    assert all(figures[name] > 0 for name in ("read", "read_one_thread", "thread_round_trip", "tcp_round_trip", "tcp", "durable_append"))
    run = bench("machine", "--dir", tmp_path / "absent")
    assert run.returncode == 1 and "--dir" in run.stderr
