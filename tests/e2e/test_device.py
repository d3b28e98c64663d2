"""What a worker computes on. --device cuda is refused where there is no GPU, with the reason; auto takes the CPU and says why.
And whole clusters on emulated cards: the module that stands in for the CUDA module lies beside the programs."""
import json
import os
import re
import shutil
import signal
import subprocess

import conftest
import pytest
from conftest import BIN, CHECKPOINTS, Cluster, eventually, is_ready

MODEL = CHECKPOINTS / "tiny_llama"
WHY = r"no CUDA module|no NVIDIA driver|too old|shows no GPU|cannot be opened"
EMULATED_MODULE = BIN.parent / "emulated" / "choir_cuda.so"
CONFIG = "worker:\n  device: cuda\n  dtype: f32\n"
PROGRAMS = ("choir", "choir-router", "choir-gateway", "choir-worker")


def start(*arguments, bin=BIN, **environment):
    command = [bin / "choir-worker", "--model", MODEL, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *arguments]
    return subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment})


def log_until(worker, words):
    lines = []
    for line in worker.stderr:
        lines.append(line)
        if words in line:
            break
    return "".join(lines)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """A folder of the programs with emulated cards beside them."""
    folder = tmp_path_factory.mktemp("emulated")
    for program in PROGRAMS:
        shutil.copy(BIN / program, folder)
    shutil.copy(EMULATED_MODULE, folder)
    return folder


def test_cuda_without_a_gpu_is_refused_with_the_reason():
    worker = start("--device", "cuda")
    _, log = worker.communicate(timeout=120)
    assert worker.returncode == 1, log
    assert re.search(rf"--device cuda: .*({WHY})", log), log


def test_auto_computes_on_the_cpu_and_says_why():
    worker = start("--device", "auto")
    log = log_until(worker, "ready in epoch")
    worker.send_signal(signal.SIGTERM)
    log += worker.communicate(timeout=120)[1]
    assert worker.returncode == 0, log
    assert re.search(rf"--device auto: the CPU computes: .*({WHY})", log), log
    assert re.search(r"is loaded: cpu-\S+ on cpu", log), log


def test_a_device_nobody_knows_is_refused_at_once():
    worker = start("--device", "tpu")
    _, log = worker.communicate(timeout=60)
    assert worker.returncode == 2, log
    assert "cpu" in log and "cuda" in log and "auto" in log


def test_a_worker_on_a_card_gets_ready_and_ends_as_told(emulated):
    worker = start("--device", "auto", bin=emulated)
    log = log_until(worker, "ready in epoch")
    worker.send_signal(signal.SIGTERM)
    log += worker.communicate(timeout=120)[1]
    assert worker.returncode == 0, log
    assert "is loaded: cuda-tensor-emulated-sm90 on cuda:0 (an emulated card)" in log, log


def test_a_card_with_too_little_memory_is_refused_before_loading(emulated):
    worker = start("--device", "cuda", "--kv-bytes", 1 << 40, bin=emulated)
    _, log = worker.communicate(timeout=120)
    assert worker.returncode == 1, log
    assert re.search(r"MiB for KV cache and activations .*lower kv_bytes.* are needed, .* of its 65536 MiB are free", log), log
    assert " MiB\n" not in log  # of "loading N of M MiB"


def test_a_card_that_fails_ends_the_worker_with_the_reason(emulated):
    # Loading takes two waits here, so the self-test meets the failure.
    worker = start("--device", "cuda", bin=emulated, CHOIR_EMULATED_CARD_FAILS_AT="3")
    _, log = worker.communicate(timeout=120)
    assert worker.returncode == 1, log
    assert "uncorrectable ECC error" in log, log
    assert "ready in epoch" not in log, log


def ask(cluster, model, tokens):
    """(the answer to the first golden prompt, what transformers answers)"""
    prompt = json.loads((CHECKPOINTS / model / "expected.json").read_text())["prompts"][0]
    client = cluster.openai().with_options(timeout=400)  # emulated kernels are slow
    answer = client.completions.create(model=model, prompt=prompt["ids"], max_tokens=tokens, temperature=0,
                                                 extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == tokens
    golden = subprocess.run([BIN / "choir", "detokenize", "--json", "--model", CHECKPOINTS / model], check=True,
                            input=json.dumps(prompt["greedy"][:tokens]), capture_output=True, text=True).stdout
    return answer.choices[0].text, json.loads(golden)


def test_a_cluster_of_two_ranks_on_cards_gives_the_golden_tokens(emulated, tmp_path, monkeypatch):
    monkeypatch.setattr(conftest, "BIN", emulated)
    cluster = Cluster(tmp_path, model="tiny_glm4_moe", ranks=2, config=CONFIG)
    try:
        eventually(cluster.serves, what="a ready rank")
        text, golden = ask(cluster, "tiny_glm4_moe", 4)
        assert text == golden
        logs = cluster.logs()
        assert "cuda-tensor-emulated-sm90 on cuda:0" in logs and "cuda-tensor-emulated-sm90 on cuda:1" in logs
    finally:
        cluster.stop()


def test_an_answer_goes_on_elsewhere_when_its_card_fails(emulated, tmp_path, monkeypatch):
    monkeypatch.setattr(conftest, "BIN", emulated)
    # Each step is a wait of the card: the worker that begins gets to about 12 of 24 tokens, the other one does the rest.
    monkeypatch.setenv("CHOIR_EMULATED_CARD_FAILS_AT", "16")
    cluster = Cluster(tmp_path, model="tiny_llama", ranks=1, groups=2, config=CONFIG)
    try:
        for url in cluster.ready["metrics"]["workers"]:
            eventually(lambda: is_ready(url), what="two ready workers")
        text, golden = ask(cluster, "tiny_llama", 24)
        assert text == golden
        assert "the device failed, this process ends to be started again" in cluster.logs()
    finally:
        cluster.stop()
