"""What a worker computes on: --device cuda is refused where there is no GPU, with the reason; auto takes the CPU and says why."""
import os
import re
import signal
import subprocess

from conftest import BIN, CHECKPOINTS

MODEL = CHECKPOINTS / "tiny_llama"
NO_GPU = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
WHY = r"no CUDA module|no NVIDIA driver|too old|shows no GPU|cannot be opened"


def start(*arguments):
    command = [BIN / "choir-worker", "--model", MODEL, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *arguments]
    return subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=NO_GPU)


def test_cuda_without_a_gpu_is_refused_with_the_reason():
    worker = start("--device", "cuda")
    _, log = worker.communicate(timeout=120)
    assert worker.returncode == 1, log
    assert re.search(rf"--device cuda: .*({WHY})", log), log


def test_auto_computes_on_the_cpu_and_says_why():
    worker = start("--device", "auto")
    lines = []
    for line in worker.stderr:
        lines.append(line)
        if "ready in epoch" in line:
            break
    worker.send_signal(signal.SIGTERM)
    _, rest = worker.communicate(timeout=120)
    log = "".join(lines) + rest
    assert worker.returncode == 0, log
    assert re.search(rf"--device auto: the CPU computes: .*({WHY})", log), log
    assert re.search(r"is loaded: cpu-\S+ on cpu", log), log


def test_a_device_nobody_knows_is_refused_at_once():
    worker = start("--device", "tpu")
    _, log = worker.communicate(timeout=60)
    assert worker.returncode == 2, log
    assert "cpu" in log and "cuda" in log and "auto" in log
