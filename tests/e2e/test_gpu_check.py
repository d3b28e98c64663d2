"""tools/gpu_check: on a machine without a GPU it says so, with a code of its own, and checks nothing; on an emulated card the whole
of it runs; and what fails, hangs or has no time is told while the rest still runs."""
import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from conftest import BIN, ROOT

NO_GPU = 3
PROGRAMS = ("choir", "choir-router", "choir-gateway", "choir-worker", "choir-gpu-check")
SUITES = ("kernels_contract_test", "device_golden_test")


def script(name, text, folder):
    (folder / name).write_text("#!/bin/sh\n" + text)
    (folder / name).chmod(0o755)


def suite(name, folder, tests=("One",), body="exit 0"):
    """A GoogleTest binary of one suite; `body` runs after a test has begun, with its name in $1, and says how it ends."""
    listed = "".join(f"  {test}/gpu  # GetParam() = \"gpu\"\n" for test in tests)
    script(name, f"""case "$*" in
  *--gtest_list_tests*) printf 'Tables/Ops.\n{listed}'; exit 0;;
esac
body() {{
{body}
}}
for test in {' '.join(tests)}; do
  case "$*" in *Ops.$test/gpu*) ;; *) continue;; esac
  echo "[ RUN      ] Tables/Ops.$test/gpu"
  (body $test) || exit $?
  echo "[       OK ] Tables/Ops.$test/gpu (0 ms)"
done
""", folder)


def suites(folder, *arguments, seconds=30):
    return subprocess.run([ROOT / "tools" / "gpu" / "suites.py", "--seconds", str(seconds), *arguments, folder / "tests"],
                          capture_output=True, text=True, timeout=120)


def wait_until(check):
    end = time.monotonic() + 30
    while not check():
        assert time.monotonic() < end
        time.sleep(0.02)


def gpu_check(out, programs, seconds):
    return subprocess.run([ROOT / "tools" / "gpu_check", out], capture_output=True, text=True, timeout=600,
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "CHOIR_GPU_CHECK_BIN": str(programs),
                               "CHOIR_GPU_CHECK_SMALL": "1", "CHOIR_GPU_CHECK_SECONDS": str(seconds)})


def states(out):
    return {s["name"]: s["state"] for s in json.loads((out / "gpu_check.json").read_text())["sections"]}


def test_without_a_gpu_it_says_why_and_nothing_counts_as_checked(tmp_path):
    for section in ("limits", "nccl"):
        run = subprocess.run([BIN / "choir-gpu-check", section, tmp_path], capture_output=True, text=True, timeout=600,
                             env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
        assert run.returncode == NO_GPU, run.stderr
        assert "nothing was checked" in run.stderr
    run = gpu_check(tmp_path / "out", BIN, 10)
    assert run.returncode == NO_GPU, run.stderr
    assert "nothing was checked" in run.stderr
    assert not (tmp_path / "out").exists()


def test_it_refuses_what_it_does_not_know(tmp_path):
    for wrong in (["--fast"], ["speed", tmp_path], ["sweep"]):
        run = subprocess.run([BIN / "choir-gpu-check", *wrong], capture_output=True, text=True, timeout=60)
        assert run.returncode == 2, run.stderr


def test_all_of_it_runs_on_an_emulated_card(tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in PROGRAMS:
        shutil.copy(BIN / program, programs)
    shutil.copy(BIN.parent / "emulated" / "choir_cuda.so", programs)
    for name in SUITES:  # they are tests of their own here
        suite(name, programs)
    out = tmp_path / "out"
    run = gpu_check(out, programs, 1060)  # a card that is emulated beside other tests may take twice the time of each section
    assert run.returncode == 0, run.stdout + run.stderr
    assert {"limits", "contract", "models", "sweep", "ops", "slice", "processes", "nccl"} <= states(out).keys()
    report = json.loads((out / "gpu_check.json").read_text())
    assert report["card"]["name"] == "an emulated card"
    assert report["sweep"]["failures"] == [] and report["sweep"]["cases"] == 40
    assert [r["ranks"] for r in report["processes"]["runs"]] == [1, 2]
    assert report["processes"]["runs"][1]["pause_s"] > 0
    for how in ("planned by the cards", "planned by the hosts", "in two micro-batches"):
        assert any(f"by NCCL, {how}: the same bytes" in line for line in report["processes"]["lines"]), how
    assert "emulated-sm90 on cuda:0" in report["processes"]["computes_on"]
    assert len(report["nccl"]["lines"]) == 2
    assert {s["kind"] for s in report["slice"]["steps"]} == {"decode", "prefill"}
    figures = {f["figure"]: f for f in report["figures"]}
    step = figures["step_ratio"]
    assert [r["of"] for r in step["readings"]] == ["batch 3", "batch 1"] and step["worst"]["value"] == step["seen"] >= step["best"]["value"]
    assert "copy's rate" in figures["mla_decode"]["judged_by"] and [r["judged"] for r in figures["mla_decode"]["readings"]] == [True, False]
    assert figures["f8_contiguous"]["note"] == "no data sheet of an emulated card is known here"
    # The end of the output is what a caller sees of it.
    assert len(run.stdout) < 12000 and "| nccl | passed |" in run.stdout and run.stdout.rstrip().endswith(f"see {out}")
    markdown = (out / "gpu_check.md").read_text()
    for words in ("an emulated card", "## Figures", "grouped_gemm", "2 ranks on one card", "Projection, batch 3 a GPU"):
        assert words in markdown
    assert sorted(p.name for p in out.iterdir()) == ["gpu_check.json", "gpu_check.md", "logs.tar.gz"]


def test_what_fails_hangs_or_is_left_out_is_told_and_the_rest_still_runs(tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    script("choir-gpu-check", f"""case $1 in
  sweep) exec sleep 600;;
  ops) echo 'an illegal memory access'; exit 1;;
  nccl) echo 'choir-gpu-check: nothing was checked: no NCCL'; exit 3;;
  report) exec {BIN}/choir-gpu-check "$@";;
esac
""", programs)
    suite("kernels_contract_test", programs, tests=())
    suite("device_golden_test", programs)
    out = tmp_path / "out"
    run = gpu_check(out, programs, 30)
    assert run.returncode == 1, run.stdout + run.stderr
    ended = states(out)
    assert ended["sweep"] == "hung"
    assert ended["ops"] == "failed with 1" and "an illegal memory access" in run.stdout
    assert ended["contract"] == "failed: it has no tests for this card"
    assert ended["processes"] == "failed with 1"  # there is no choir to start
    assert ended["nccl"] == "left out: nothing was checked: no NCCL"
    assert ended["limits"] == ended["models"] == ended["slice"] == "passed"
    assert "| sweep | hung |" in run.stdout and "not seen in this run" in run.stdout


def test_nothing_begins_when_the_time_is_over(tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    script("choir-gpu-check", f'[ "$1" != report ] || exec {BIN}/choir-gpu-check "$@"\n', programs)
    for name in SUITES:
        suite(name, programs)
    run = gpu_check(tmp_path / "out", programs, 0)
    assert run.returncode == 1, run.stdout + run.stderr
    assert set(states(tmp_path / "out").values()) - {"left out: no compute-sanitizer here, or no time left"} == {"left out: no time left"}


def test_what_was_done_is_there_when_it_is_stopped(tmp_path):
    programs, out = tmp_path / "programs", tmp_path / "out"
    programs.mkdir()
    script("choir-gpu-check", f"""case $1 in
  limits) echo '{{"copy_gb_per_s": 4000.0}}' >$2/limits.json;;
  ops) echo '[{{"table": "t", "op": "o", "shape": "s", "us": 1.0}}]' >$2/ops.json; exit 1;;
  slice) case "$*" in *--rung*) echo '{{"steps": [{{"kind": "decode", "rows": 1}}]}}' >$2/slice-tensor.json; exit 0;; esac; exit 1;;
  nccl) kill -9 $$;;
  report) exec {BIN}/choir-gpu-check "$@";;
esac
""", programs)
    for name in SUITES:
        suite(name, programs)
    with subprocess.Popen([ROOT / "tools" / "gpu_check", out], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "CHOIR_GPU_CHECK_BIN": str(programs), "CHOIR_GPU_CHECK_SECONDS": "300"}) as run:
        for line in run.stdout:
            if line.startswith("== limits"):
                limits_ended = True
            if line.startswith("== ops:"):
                assert limits_ended and json.loads((out / "gpu_check.json").read_text())["limits"]["copy_gb_per_s"] == 4000
    report = json.loads((out / "gpu_check.json").read_text())
    ended = states(out)
    assert ended["nccl"] == "failed: it was killed" and ended["ops"] == "failed with 1"
    assert report["ops"][0]["us"] == 1.0 and ended["slice-tensor"] == "passed" and len(report["slice"]["steps"]) == 1
    assert sorted(p.name for p in out.iterdir()) == ["gpu_check.json", "gpu_check.md", "logs.tar.gz"]


def test_suites_go_on_after_a_test_that_ends_its_process_or_hangs(tmp_path):
    suite("tests", tmp_path, tests=("First", "Dies", "Hangs", "Last"), body="""
  case $1 in
    Dies) echo 'an illegal address'; kill -6 $$;;
    Hangs) exec sleep 600;;
  esac""")
    run = suites(tmp_path, "--test-seconds", "1")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "died with -6: Tables/Ops.Dies/gpu\n" in run.stdout and "an illegal address" in run.stdout
    assert "hung: 1.0 s without a word: Tables/Ops.Hangs/gpu\n" in run.stdout
    assert "4 tests: 2 passed, 2 not" in run.stdout


def test_suites_do_not_pass_when_their_process_fails_behind_its_tests(tmp_path):
    suite("tests", tmp_path)
    with open(tmp_path / "tests", "a") as text:
        text.write("kill -6 $$\n")
    run = suites(tmp_path)
    assert run.returncode == 1 and "died with -6: Tables/Ops.One/gpu (its process)" in run.stdout
    suite("tests", tmp_path)
    with open(tmp_path / "tests", "a") as text:
        text.write("exec >&- 2>&-; sleep 600\n")
    run = suites(tmp_path)
    assert run.returncode == 1 and "hung: it does not end: Tables/Ops.One/gpu (its process)" in run.stdout


def test_suites_that_are_stopped_leave_nothing_behind_and_say_what_was_done(tmp_path):
    suite("tests", tmp_path, tests=("First", "Hangs"), body=f"""
  [ $1 = Hangs ] || return 0
  echo $$ >{tmp_path}/pid
  exec sleep 600""")
    with subprocess.Popen([ROOT / "tools" / "gpu" / "suites.py", "--seconds", "60", tmp_path / "tests"],
                          stdout=subprocess.PIPE, text=True) as run:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
        run.send_signal(signal.SIGTERM)
        out = run.communicate(timeout=60)[0]
    assert run.returncode == 1 and "2 tests: 1 passed, 1 not" in out and "not ended: no time left: Tables/Ops.Hangs/gpu" in out
    wait_until(lambda: not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}"))


def test_suites_say_what_had_no_time_and_refuse_to_pass_with_no_test(tmp_path):
    suite("tests", tmp_path)
    assert suites(tmp_path).returncode == 0
    assert "not run: no time left: Tables/Ops.One/gpu" in suites(tmp_path, seconds=0).stdout
    none = suites(tmp_path, "--require", "/gpu_hopper$")
    assert none.returncode == 5 and "no test of * matches /gpu_hopper$" in none.stdout
    suite("tests", tmp_path, tests=())
    assert suites(tmp_path).returncode == 5
    suite("tests", tmp_path, body="kill -9 $$")
    script("tests", (tmp_path / "tests").read_text().replace("(body $test) || exit $?", "exit 0").removeprefix("#!/bin/sh\n"), tmp_path)
    ended = suites(tmp_path)
    assert ended.returncode == 1 and "died with 0: Tables/Ops.One/gpu" in ended.stdout
    script("tests", "case \"$*\" in *list*) printf 'A.\\n  B\\n';; *) exit 127;; esac\n", tmp_path)
    died = suites(tmp_path)
    assert died.returncode == 1 and "died before it began: A.B" in died.stdout


@pytest.fixture(scope="module")
def processes():
    spec = importlib.util.spec_from_file_location("processes", ROOT / "tools" / "gpu" / "processes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("small", [True, False])
def test_clusters_have_a_model_whose_attention_hoppers_own_kernel_computes(processes, tmp_path, small):
    options = argparse.Namespace(bin=BIN, small=small, environment=None)
    config = json.loads((processes.make_model(options, tmp_path) / "config.json").read_text())
    # As kernels/cuda/hopper/mla_attention.cuh covers it.
    assert (config["kv_lora_rank"], config["qk_rope_head_dim"], config["num_attention_heads"] % 64) == (512, 64, 0)
    assert config["model_type"] == "deepseek_v3" and ("quantization_config" in config) == (not small)


def answer(processes, *events):
    made = processes.Answer()
    for event in events:
        made.take(json.dumps(event) if isinstance(event, dict) else event)
    return made


def test_answers_are_compared_by_text_and_log_probabilities(processes):
    def one(text, logprob):
        choice = {"text": text, "logprobs": {"tokens": [text], "token_logprobs": [logprob]}}
        return answer(processes, {"choices": [choice]}, {"choices": [{"text": "", "finish_reason": "length"}]}, "[DONE]")

    same, other_text, other_logprob = one("a", -1.5), one("b", -1.5), one("a", -1.5000001)
    assert same.done and same.content() == ("a", [("a", -1.5)], "length")
    processes.compare([same], [one("a", -1.5)], "same")
    for wrong in (other_text, other_logprob):
        with pytest.raises(processes.Failed, match="2 ranks: answer 0 differs"):
            processes.compare([wrong], [same], "2 ranks")


def test_a_pause_is_the_longest_gap_after_the_kill(processes):
    made = processes.Answer()
    made.times = [0.0, 5.0, 5.1, 6.1, 6.2]
    assert made.pause_since(5.05) == pytest.approx(1.0)
    assert made.pause_since(9) == 0
