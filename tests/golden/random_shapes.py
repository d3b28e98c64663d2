#!/usr/bin/env python3
"""Compares `choir logits` with transformers on random shapes, formats and switches of every family, in
both dialects of config.json and as transformers itself saves a model. On demand, not part of the tests:

    python tests/golden/random_shapes.py --choir build/release/bin/choir --count 200 [FAMILY...]

Same seed, same shapes. Ends with 1 when a model's logits differ by more than 1e-4 of the largest."""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers

from make_checkpoints import load
from weights import write_checkpoint

CONTEXT = 256
ROPE = {
    "default": {},
    "linear": {"factor": 3.5},
    "dynamic": {"factor": 2.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
}
ARCHITECTURES = {
    "llama": "LlamaForCausalLM", "glm4_moe": "Glm4MoeForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "mixtral": "MixtralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM"}


def coin(r):
    return r.random() < 0.5


def rope(r, mla):
    """Keys of one dialect or the other."""
    kind, theta = r.choice(list(ROPE)), r.choice([100.0, 10000.0, 1e6])
    scaling = dict(ROPE[kind])
    if kind == "yarn" and coin(r):
        scaling.update(attention_factor=1.2, beta_fast=16.0, beta_slow=2.0, truncate=coin(r))
    if mla and kind != "default":
        scaling["mscale_all_dim"] = r.choice([0.7, 1.0])
        if coin(r):
            scaling["mscale"] = r.choice([0.7, 1.0])
    if coin(r):
        return {"rope_parameters": {**scaling, "rope_type": kind, "rope_theta": theta}}
    if kind == "default":
        return {"rope_theta": theta, "rope_scaling": None}
    return {"rope_theta": theta, "rope_scaling": {**scaling, r.choice(["type", "rope_type"]): kind}}


def common(r, family):
    return {"architectures": [ARCHITECTURES[family]], "model_type": family, "hidden_act": "silu",
            "vocab_size": r.randint(20, 150), "intermediate_size": r.randint(1, 90),
            "num_hidden_layers": r.randint(1, 4), "rms_norm_eps": r.choice([1e-5, 1e-6]),
            "tie_word_embeddings": coin(r), "max_position_embeddings": CONTEXT,
            "bos_token_id": 0, "eos_token_id": 1}


def gqa(r, family):
    kv_heads = r.randint(1, 3)
    heads, head_dim = kv_heads * r.randint(1, 4), 4 * r.randint(1, 10)
    c = {**common(r, family), **rope(r, False), "num_attention_heads": heads,
         "num_key_value_heads": kv_heads, "head_dim": head_dim}
    c["hidden_size"] = heads * r.randint(2, 20) if family == "llama" else r.randint(3, 70)
    if family in ("qwen2", "qwen3_moe") and coin(r):  # as published without the key
        c["hidden_size"] = heads * c.pop("head_dim")
    return c


def mla(r, family):
    even = 2 if family == "deepseek_v2" else 1  # transformers cannot do odd ones there
    heads = r.randint(1, 9)
    c = {**common(r, family), **rope(r, True), "num_attention_heads": heads,
         "num_key_value_heads": heads, "hidden_size": heads * r.randint(2, 12),
         "q_lora_rank": r.choice([None, r.randint(2, 30)]), "attention_bias": False,
         "kv_lora_rank": even * r.randint(1, 20), "qk_nope_head_dim": even * r.randint(1, 12),
         "qk_rope_head_dim": 2 * r.randint(2, 8), "v_head_dim": even * r.randint(1, 12)}
    if family == "deepseek_v3":
        c["rope_interleave"] = coin(r)
    return c


def grouped_gate(r, c):
    groups, each = r.randint(1, 4), r.randint(2, 5)
    kept = r.randint(1, groups)
    v2 = c["model_type"] == "deepseek_v2"
    method = r.choice(["greedy", "group_limited_greedy"]) if v2 else "noaux_tc"
    return {"n_routed_experts": groups * each, "n_group": groups, "topk_group": kept,
            "num_experts_per_tok": r.randint(1, each * (groups if method == "greedy" else kept)),
            "n_shared_experts": r.randint(1, 2), "moe_intermediate_size": r.randint(1, 30),
            "first_k_dense_replace": r.randint(0, c["num_hidden_layers"]),
            "routed_scaling_factor": r.choice([1.0, 2.5]), "norm_topk_prob": coin(r),
            "topk_method": method, "scoring_func": "softmax" if v2 else "sigmoid"}


def qwen_windows(r, c):
    layers, on = c["num_hidden_layers"], r.random() < 0.7
    keys = {"use_sliding_window": on, "sliding_window": r.choice([1, 2, 7, 16, 33, 4096]),
            "max_window_layers": r.randint(0, layers)}
    if c["model_type"] != "qwen3_moe" and coin(r):
        kinds = ["full_attention"] + ["sliding_attention"] * on
        keys["layer_types"] = [r.choice(kinds) for _ in range(layers)]
    return keys


def qwen_experts(r, c):
    experts = r.randint(1, 12)
    return {r.choice(["num_experts", "num_local_experts"]): experts,
            "num_experts_per_tok": r.randint(1, experts), "moe_intermediate_size": r.randint(1, 30),
            "norm_topk_prob": coin(r), "decoder_sparse_step": r.randint(1, 3),
            "mlp_only_layers": [i for i in range(c["num_hidden_layers"]) if r.random() < 0.2]}


def gpt_oss(r, c):
    experts, layers = r.randint(1, 9), c["num_hidden_layers"]
    keys = {"sliding_window": r.choice([1, 5, 16, 40]), "swiglu_limit": r.choice([0.5, 2.0, 7.0]),
            "swiglu_alpha": r.choice([1.702, 1.0]), "num_local_experts": experts,
            "num_experts_per_tok": r.randint(1, experts), "attention_bias": r.random() < 0.8}
    if coin(r):
        keys["layer_types"] = [r.choice(["full_attention", "sliding_attention"])
                               for _ in range(layers)]
    return keys


def quantization(r, c):
    """Keys that make a part of the matrices FP8, or gpt_oss' experts MXFP4; often none."""
    if r.random() < 0.5:
        return {}
    if c["model_type"] == "gpt_oss":
        c["hidden_size"], c["intermediate_size"] = 32 * r.randint(1, 5), 32 * r.randint(1, 5)
        return {"quantization_config": {"quant_method": "mxfp4"}}
    if r.random() < 0.7:  # more than one block, the last one partial
        unit = 2 * c["num_attention_heads"]
        c["hidden_size"] = unit * r.randint(130 // unit + 1, 300 // unit + 1)
    if coin(r):
        c["intermediate_size"] = r.randint(120, 270)
    modules = [f"model.layers.{i}.{part}" for i in range(c["num_hidden_layers"])
               for part in ("self_attn", "mlp", "block_sparse_moe") if r.random() < 0.15]
    return {"quantization_config": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [128, 128], "modules_to_not_convert": modules}}


def draw(r, family):
    if family.startswith("deepseek"):
        c = mla(r, family)
        return {**c, **grouped_gate(r, c)}
    c = gqa(r, family)
    if family == "llama":
        c.update(attention_bias=coin(r), mlp_bias=coin(r))
    elif family == "glm4_moe":
        c.update(use_qk_norm=coin(r), attention_bias=coin(r), **grouped_gate(r, c))
        c["partial_rotary_factor"] = r.choice([0.5, 1.0])
    elif family == "gpt_oss":
        c.update(gpt_oss(r, c))
    elif family == "mixtral":
        experts = r.randint(1, 9)
        c.update(sliding_window=r.choice([None, 1, 5, 40]), num_local_experts=experts,
                 num_experts_per_tok=r.randint(1, experts))
    else:
        c.update(qwen_windows(r, c))
        if family != "qwen2":
            c["attention_bias"] = coin(r)
        if family == "qwen3_moe":
            c.update(qwen_experts(r, c))
    return c


def logits_of(choir, path, ids, r):
    with open(os.path.join(path, "ids.json"), "w", encoding="utf-8") as f:
        json.dump(ids, f)
    out = os.path.join(path, "logits.npy")
    subprocess.run([choir, "logits", "--model", path, "--ids", f.name, "--out", out, "--dtype", "f32",
                    "--ranks", str(r.randint(1, 3)), "--prefill-chunk",
                    str(r.choice([1, 7, 64, 512]))], check=True)
    return np.load(out)


def check(choir, seed, family, root):
    """Largest relative difference of one model."""
    r = random.Random(f"{family} {seed}")
    config = draw(r, family)
    config.update(quantization(r, config))
    plain = "quantization_config" not in config
    spec = {"seed": seed, "dtype": r.choice(["float32", "bfloat16", "float16"]), "config": config,
            "shards": r.randint(1, 2) if plain else 1, "dtype_key": r.choice(["dtype", "torch_dtype"]),
            "scale_dtype": r.choice(["float32", "bfloat16"])}
    path = os.path.join(root, f"{family}_{seed}")
    write_checkpoint(spec, path, {})
    model = load(path)
    ids = [r.randrange(spec["config"]["vocab_size"]) for _ in range(r.randint(1, CONTEXT))]
    with torch.no_grad():
        want = model(torch.tensor([ids]), use_cache=False).logits[0].double().numpy()
    if r.random() < 0.3:
        path += "_saved"
        model.save_pretrained(path)
    got = logits_of(choir, path, ids, r)
    return np.abs(got - want).max() / np.abs(want).max(), path


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("families", nargs="*", default=list(ARCHITECTURES), metavar="FAMILY")
    a.add_argument("--choir", default="build/release/bin/choir")
    a.add_argument("--count", type=int, default=100, help="models in all")
    a.add_argument("--seed", type=int, default=0)
    a = a.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    worst, bad = (0.0, "none"), 0
    with tempfile.TemporaryDirectory(prefix="choir-shapes-") as root:
        for i in range(a.count):
            family = a.families[i % len(a.families)]
            error, path = check(a.choir, a.seed + i, family, root)
            worst = max(worst, (error, f"{family} seed {a.seed + i}"))
            if not error < 1e-4:
                bad += 1
                with open(os.path.join(path, "config.json"), encoding="utf-8") as f:
                    print(f"{family} seed {a.seed + i}: {error:.1e}\n{f.read()}")
    print(f"{a.count} models, {bad} differ, largest difference {worst[0]:.1e} of {worst[1]}")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
