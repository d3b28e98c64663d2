"""A model whose tokens prefer some experts, and what copies and moves of experts gain on it. As a command:

    build/release/bin/choir model random --out DIR --family glm4_moe ...
    build/venv/bin/python tests/e2e/skewed_load.py --model DIR [--ranks 2] [--redundant 0,1,4] [--bias 10,10,10,10]
"""
import argparse
import json
import pathlib
import re
import shutil
import struct
import subprocess
import tempfile

from conftest import BIN, Cluster


def overwrite(model, pattern, values):
    """Writes float32 `values` over the first numbers of each tensor whose name matches."""
    with open(model / "model.safetensors", "r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        for name, tensor in json.loads(file.read(size)).items():
            if re.search(pattern, name):
                file.seek(8 + size + tensor["data_offsets"][0])
                file.write(struct.pack(f"<{len(values)}f", *values))


def prefer(model, bias):
    """Adds `bias` to the scores by which tokens choose the first experts, in every layer. Of families with correction biases."""
    overwrite(model, "e_score_correction_bias$", bias)


def worst(cluster, name, **labels):
    """Of the workers' values the highest."""
    return max(cluster.metric(url, name, **labels) for url in cluster.ready["metrics"]["workers"])


def cpu(cluster):
    return [cluster.metric(url, "process_cpu_seconds_total") for url in cluster.ready["metrics"]["workers"]]


def load(cluster, prompt, tokens, requests, streams):
    """What `choir bench e2e` prints, and the CPU seconds of each worker meanwhile."""
    command = [BIN / "choir", "bench", "e2e", "--state", cluster.state, "--prompt", prompt, "--tokens", tokens, "--requests", requests,
               "--streams", streams, "--json"]
    before = cpu(cluster)
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    return {"prompt_tokens_per_s": result["prompt_tokens_per_s"], "output_tokens_per_s": result["output_tokens_per_s"], "itl_s": result["itl"]["p50_s"],
            "cpu_s": [round(now - then, 2) for now, then in zip(cpu(cluster), before)]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--redundant", default="0,1,4")
    parser.add_argument("--bias", default="10,10,10,10")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    redundant = [int(n) for n in options.redundant.split(",")]
    with tempfile.TemporaryDirectory() as tmp:
        model = shutil.copytree(options.model, pathlib.Path(tmp) / "model")
        prefer(model, [float(b) for b in options.bias.split(",")])
        clusters = {}
        try:
            for n in redundant:
                at = pathlib.Path(tmp) / str(n)
                at.mkdir()
                clusters[n] = Cluster(at, model=model, ranks=options.ranks,
                                      config=f"worker: {{redundant_experts: {n}, placement_steps: 16, prefix_cache: false, threads: 1}}\n")
            for n in redundant:
                for _ in range(4):  # until experts lie where they stay
                    load(clusters[n], 128, 16, 16, 8)
            for _ in range(options.rounds):  # in turn: a machine with other work is no other for one of them
                for n in redundant:
                    prefill, decode = load(clusters[n], 512, 1, 16, 4), load(clusters[n], 16, 64, 16, 8)
                    print(json.dumps({"redundant": n, "imbalance": worst(clusters[n], "choir_expert_rank_imbalance_ratio"),
                                      "copies": worst(clusters[n], "choir_expert_copies"), "prefill": prefill, "decode": decode}), flush=True)
        finally:
            for cluster in clusters.values():
                cluster.stop()


if __name__ == "__main__":
    main()
