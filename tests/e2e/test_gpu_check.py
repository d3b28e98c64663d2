"""tools/gpu_check on a machine without a GPU says so, with a code of its own, and checks nothing."""
import os
import subprocess

from conftest import BIN

NO_GPU = 3


def test_without_a_gpu_it_says_why_and_nothing_counts_as_checked(tmp_path):
    run = subprocess.run([BIN / "choir-gpu-check", tmp_path], capture_output=True, text=True, timeout=600,
                         env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert run.returncode == NO_GPU, run.stderr
    assert "nothing was checked" in run.stderr
    assert not list(tmp_path.iterdir())


def test_it_refuses_what_it_does_not_know():
    run = subprocess.run([BIN / "choir-gpu-check", "--fast"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert "usage" in run.stderr
