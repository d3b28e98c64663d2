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
from conftest import BIN, CHECKPOINTS, Cluster, eventually, is_ready, status_page
from skewed_load import prefer

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
    assert "is loaded: cuda-hopper-emulated-sm90 on cuda:0 (an emulated card)" in log, log


def test_the_doctor_says_of_every_card_what_a_worker_would(emulated):
    def told(**environment):
        done = subprocess.run([emulated / "choir", "doctor", "--json"], capture_output=True, text=True, timeout=120, env={**os.environ, **environment})
        return [(c["level"], c["text"]) for c in json.loads(done.stdout) if c["check"] == "gpu"]

    (good, first), (refused, second) = told(CHOIR_EMULATED_CARDS="2", CHOIR_EMULATED_OLD_CARD="1")
    assert good == "good" and first.startswith("cuda:0 (an emulated card), 64 GiB"), first
    assert refused == "warning", second
    reason = "cuda:1 (an emulated card) has compute capability 7.5, this build is for 90a-real: build with -DCMAKE_CUDA_ARCHITECTURES=75"
    assert second.endswith(": " + reason)
    worker = start("--device", "cuda", "--group", "1", bin=emulated, CHOIR_EMULATED_CARDS="2", CHOIR_EMULATED_OLD_CARD="1")
    _, log = worker.communicate(timeout=120)
    assert worker.returncode == 1 and reason in log, log
    many = told(CHOIR_EMULATED_CARDS="20")
    assert len(many) == 17 and many[-1] == ("good", "4 more cards were not looked at")


def test_a_card_with_too_little_memory_is_refused_before_loading(emulated):
    worker = start("--device", "cuda", "--kv-bytes", 1 << 40, bin=emulated)
    _, log = worker.communicate(timeout=120)
    assert worker.returncode == 1, log
    assert re.search(r"MiB for KV cache and activations .*lower kv_bytes.* are needed, .* of its 65536 MiB are free", log), log
    assert " MiB\n" not in log  # of "loading N of M MiB"


def test_a_card_that_fails_ends_the_worker_with_the_reason(emulated):
    # Loading takes two waits here, so the self-test meets the failure; the check of --cuda-kernels auto would take more.
    worker = start("--device", "cuda", "--cuda-kernels", "tensor", bin=emulated, CHOIR_EMULATED_CARD_FAILS_AT="3")
    _, log = worker.communicate(timeout=120)
    assert worker.returncode == 1, log
    assert "uncorrectable ECC error" in log, log
    assert "ready in epoch" not in log, log


def test_a_card_that_hangs_ends_the_worker_with_the_reason(emulated):
    worker = start("--device", "cuda", "--cuda-kernels", "tensor", "--device-timeout", "100ms", bin=emulated, CHOIR_EMULATED_CARD_HANGS_AFTER="3")
    _, log = worker.communicate(timeout=120)
    assert worker.returncode == 1, log
    assert "cuda:0 (an emulated card): a step or a copy has not ended in 0.1 s (--device-timeout)" in log, log


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


# Cards of the machine and what the workers say of the way of the rows.
WAYS = {8: "by NCCL 2.28.9", 1: "by the hosts' memory: ranks 0 and 1 share the card emulated:0"}


@pytest.mark.parametrize("cards", WAYS)
def test_a_cluster_of_two_ranks_on_cards_gives_the_golden_tokens(emulated, tmp_path, monkeypatch, cards):
    monkeypatch.setattr(conftest, "BIN", emulated)
    monkeypatch.setenv("CHOIR_FAKE_NCCL_DIR", str(tmp_path))
    monkeypatch.setenv("CHOIR_EMULATED_CARDS", str(cards))
    cluster = Cluster(tmp_path, model="tiny_glm4_moe", ranks=2, config=CONFIG)
    try:
        eventually(cluster.serves, what="a ready rank")
        text, golden = ask(cluster, "tiny_glm4_moe", 4)
        assert text == golden
        logs = cluster.logs()
        assert "cuda-hopper-emulated-sm90 on cuda:0" in logs
        assert ("cuda-hopper-emulated-sm90 on cuda:1" in logs) == (cards > 1)
        assert logs.count("rows of experts go between ranks " + WAYS[cards]) == 2, logs
        ways = [status_page(url)["rows_by"] for url in cluster.ready["metrics"]["workers"]]
        assert all(WAYS[cards].removeprefix("by ") in way for way in ways), ways
    finally:
        cluster.stop()


@pytest.mark.parametrize("how", ["FAILS_AT", "HANGS_AFTER"])
def test_an_answer_goes_on_elsewhere_when_its_card_fails(emulated, tmp_path, monkeypatch, how):
    monkeypatch.setattr(conftest, "BIN", emulated)
    # Each step is a wait of the card: the worker that begins gets to about 12 of 24 tokens, the other one does the rest.
    monkeypatch.setenv("CHOIR_EMULATED_CARD_" + how, "16")
    cluster = Cluster(tmp_path, model="tiny_llama", ranks=1, groups=2, config=CONFIG + "  cuda_kernels: tensor\n  device_timeout: 200ms\n")
    try:
        for url in cluster.ready["metrics"]["workers"]:
            eventually(lambda: is_ready(url), what="two ready workers")
        text, golden = ask(cluster, "tiny_llama", 24)
        assert text == golden
        assert "the device failed, this process ends to be started again" in cluster.logs()
        eventually(lambda: cluster.logs().count(" is loaded: ") > 2, what="a restart")
    finally:
        cluster.stop()


def test_experts_that_a_card_leaves_to_the_cpu_give_the_golden_tokens(emulated, tmp_path, monkeypatch):
    monkeypatch.setattr(conftest, "BIN", emulated)
    model, counts = "tiny_glm4_moe", tmp_path / "counts"
    counts.mkdir()

    def run(state, options):
        (tmp_path / state).mkdir()
        cluster = Cluster(tmp_path / state, model=model, ranks=2, config=f"worker: {{device: cuda, cuda_kernels: simple, dtype: f32, {options}}}\n")
        try:
            eventually(cluster.serves, what="a ready rank")
            text, golden = ask(cluster, model, 4)
            assert text == golden
            return cluster.logs()
        finally:
            cluster.stop()

    plain = run("plain", f"cpu_experts: 2, expert_counts: {counts}")
    assert re.search(r"of the 5 experts of each layer here the CPU computes 2 \(cpu_experts 2\): the last ones", plain), plain
    assert re.search(r"is loaded: cuda-simple-emulated-sm90 and cpu-\S+ for experts [0-9a-f]{64} on cuda:1", plain), plain
    assert "no step runs as a CUDA graph: the CPU computes experts (--cpu-experts 2)" in plain, plain
    files = [counts / "g0r0.json", counts / "g0r1.json"]
    rows = [json.loads(f.read_text()) for f in files]
    assert all(r["experts"] == 10 and set(r["layers"]) == {"1", "2"} for r in rows)
    assert all(sum(r["layers"]["1"]) > 0 for r in rows)
    hot = run("hot", f"cpu_experts: 2, expert_hotness: [{files[0]}, {files[1]}]")
    assert "cpu_experts 2): those with fewest rows" in hot, hot
    ids = [set(re.findall(r"numerics id ([0-9a-f]+)", log)) for log in (plain, hot)]
    assert len(ids[0]) == len(ids[1]) == 1 and ids[0] != ids[1]  # one in a group; another choice, another one


def test_experts_of_a_card_that_cannot_be_are_refused(emulated, tmp_path):
    (tmp_path / "counts.json").write_text('{"experts": 3, "layers": {}}')
    model = CHECKPOINTS / "tiny_glm4_moe"
    for flags, says in (
        (("--device", "cuda", "--cpu-experts", "11"), "of the 10 experts of a layer a rank of 1 holds 10; give 0 to 10, or auto"),
        (("--device", "cuda", "--cpu-experts", "1", "--expert-hotness", tmp_path / "counts.json"), "counts.json: experts: is 3, the model has 10"),
    ):
        worker = start("--model", model, *flags, bin=emulated)
        _, log = worker.communicate(timeout=120)
        assert worker.returncode == 1 and says in log, log


def test_experts_move_between_cards(emulated, tmp_path, monkeypatch):
    monkeypatch.setattr(conftest, "BIN", emulated)
    model = shutil.copytree(CHECKPOINTS / "tiny_glm4_moe", tmp_path / "model")
    prefer(model, [10.0] * 4)  # all on rank 0

    def run(state, redundant):
        (tmp_path / state).mkdir()
        cluster = Cluster(tmp_path / state, model=model, ranks=2,
                          config=f"worker: {{device: cuda, cuda_kernels: simple, dtype: f32, redundant_experts: {redundant}, placement_steps: 1}}\n")
        try:
            eventually(cluster.serves, what="a ready rank")
            client = cluster.openai().with_options(timeout=400)
            return [client.completions.create(model="model", prompt=[5 + n] * 60, max_tokens=2, temperature=0).choices[0].text
                    for n in range(8)], cluster.logs()
        finally:
            cluster.stop()

    stay, _ = run("stay", 0)
    move, log = run("move", 1)
    assert move == stay
    assert "of experts is in force" in log, log
