"""Seeded random weights under the published tensor names, and the files that hold them."""
import json
import os

import numpy as np
import torch
from safetensors.torch import save_file

from quantize import quantize


def _norm(rng, n):
    return 1.0 + 0.2 * rng.standard_normal(n)


def _linear(rng, out, width, gain=1.0):
    return gain * rng.standard_normal((out, width)) / np.sqrt(width)


def _mlp(rng, prefix, hidden, width, bias=False, names=("gate_proj", "up_proj", "down_proj")):
    tensors = {}
    for name, rows, cols in zip(names, (width, width, hidden), (hidden, hidden, width)):
        # A SwiGLU of unit inputs has a small output: lift it, so that the layer matters.
        tensors[f"{prefix}.{name}.weight"] = _linear(rng, rows, cols, 1.5)
        if bias:
            tensors[f"{prefix}.{name}.bias"] = 0.3 * rng.standard_normal(rows)
    return tensors


def _gqa(rng, p, c):
    family, heads, kv = c["model_type"], c["num_attention_heads"], c["num_key_value_heads"]
    d = c.get("head_dim", c["hidden_size"] // heads)
    bias_on = ""
    if c.get("attention_bias", family in ("qwen2", "gpt_oss")):
        bias_on = "qkv" if family in ("glm4_moe", "qwen2") else "qkvo"
    tensors = {}
    for n, rows, cols in (("q", heads * d, c["hidden_size"]), ("k", kv * d, c["hidden_size"]),
                          ("v", kv * d, c["hidden_size"]), ("o", c["hidden_size"], heads * d)):
        tensors[f"{p}.{n}_proj.weight"] = _linear(rng, rows, cols, 1.3)
        if n in bias_on:
            tensors[f"{p}.{n}_proj.bias"] = 0.5 * rng.standard_normal(rows)
    if c.get("use_qk_norm", family.startswith("qwen3")):
        tensors[f"{p}.q_norm.weight"], tensors[f"{p}.k_norm.weight"] = _norm(rng, d), _norm(rng, d)
    if family == "gpt_oss":
        tensors[f"{p}.sinks"] = 1.5 * rng.standard_normal(heads)
    return tensors


def _mla(rng, p, c):
    nope, rope, v, lora = (c[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
                                          "kv_lora_rank"))
    h, heads, q_lora = c["hidden_size"], c["num_attention_heads"], c["q_lora_rank"]
    tensors = {}
    if q_lora is None:
        tensors[f"{p}.q_proj.weight"] = _linear(rng, heads * (nope + rope), h, 1.3)
    else:
        # Latents far below 1 make the eps of their norms visible.
        tensors[f"{p}.q_a_proj.weight"] = _linear(rng, q_lora, h, 0.02)
        tensors[f"{p}.q_a_layernorm.weight"] = _norm(rng, q_lora)
        tensors[f"{p}.q_b_proj.weight"] = _linear(rng, heads * (nope + rope), q_lora, 1.3)
    kv_a = _linear(rng, lora + rope, h, 1.3)
    kv_a[:lora] *= 0.02
    tensors[f"{p}.kv_a_proj_with_mqa.weight"] = kv_a
    tensors[f"{p}.kv_a_layernorm.weight"] = _norm(rng, lora)
    tensors[f"{p}.kv_b_proj.weight"] = _linear(rng, heads * (nope + v), lora, 1.3)
    tensors[f"{p}.o_proj.weight"] = _linear(rng, h, heads * v, 1.3)
    return tensors


def _moe(rng, p, c):
    h, experts = c["hidden_size"], expert_count(c)
    mixtral = c["model_type"] == "mixtral"
    width = c["intermediate_size" if mixtral else "moe_intermediate_size"]
    names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    tensors = {f"{p}.gate.weight": _linear(rng, experts, h, 1.2)}
    if c["model_type"] in ("deepseek_v3", "glm4_moe"):
        tensors[f"{p}.gate.e_score_correction_bias"] = 0.15 * rng.standard_normal(experts)
    for e in range(experts):
        tensors.update(_mlp(rng, f"{p}.experts.{e}", h, width, names=names))
    if "n_shared_experts" in c:
        tensors.update(_mlp(rng, f"{p}.shared_experts", h, width * c["n_shared_experts"]))
    return tensors


def _stacked_moe(rng, p, c):
    """gpt_oss: all experts in one tensor, [in, out], gate and up in turn. Wide enough to be clamped."""
    h, width, experts = c["hidden_size"], c["intermediate_size"], expert_count(c)
    return {f"{p}.router.weight": _linear(rng, experts, h, 1.2),
            f"{p}.router.bias": 0.3 * rng.standard_normal(experts),
            f"{p}.experts.gate_up_proj": 2.0 * rng.standard_normal((experts, h, 2 * width)) / np.sqrt(h),
            f"{p}.experts.gate_up_proj_bias": 0.5 * rng.standard_normal((experts, 2 * width)),
            f"{p}.experts.down_proj": 1.5 * rng.standard_normal((experts, width, h)) / np.sqrt(width),
            f"{p}.experts.down_proj_bias": 0.3 * rng.standard_normal((experts, h))}


def expert_count(c):
    return next((c[k] for k in ("n_routed_experts", "num_experts", "num_local_experts") if k in c), 0)


def is_moe(c, layer):
    if c["model_type"] == "qwen3_moe":
        return ((layer + 1) % c["decoder_sparse_step"] == 0
                and layer not in c["mlp_only_layers"])
    return expert_count(c) > 0 and layer >= c.get("first_k_dense_replace", 0)


def _layer(rng, i, c):
    p = f"model.layers.{i}"
    tensors = {f"{p}.input_layernorm.weight": _norm(rng, c["hidden_size"])}
    tensors.update((_mla if "kv_lora_rank" in c else _gqa)(rng, f"{p}.self_attn", c))
    tensors[f"{p}.post_attention_layernorm.weight"] = _norm(rng, c["hidden_size"])
    if c["model_type"] == "gpt_oss":
        tensors.update(_stacked_moe(rng, f"{p}.mlp", c))
    elif is_moe(c, i):
        mixtral = c["model_type"] == "mixtral"
        tensors.update(_moe(rng, f"{p}.block_sparse_moe" if mixtral else f"{p}.mlp", c))
    else:
        tensors.update(_mlp(rng, f"{p}.mlp", c["hidden_size"], c["intermediate_size"],
                            c.get("mlp_bias", False)))
    return tensors


def make_tensors(spec, row_gain):
    """name -> torch tensor, in file order. row_gain: factor of each row of the output head."""
    c, rng = spec["config"], np.random.Generator(np.random.PCG64(spec["seed"]))
    h, vocab = c["hidden_size"], c["vocab_size"]
    tied = c["tie_word_embeddings"]
    tensors = {"model.embed_tokens.weight": (0.35 if tied else 1.0) * rng.standard_normal((vocab, h))}
    if tied:
        tensors["model.embed_tokens.weight"] *= row_gain[:, None]
    for i in range(c["num_hidden_layers"]):
        tensors.update(_layer(rng, i, c))
    tensors["model.norm.weight"] = _norm(rng, h)
    if not tied:
        tensors["lm_head.weight"] = _linear(rng, vocab, h, 3.0) * row_gain[:, None]
    for i in range(c["num_hidden_layers"], c["num_hidden_layers"] + spec.get("mtp_layers", 0)):
        p = f"model.layers.{i}"
        tensors.update(_layer(rng, i, c))
        tensors[f"{p}.embed_tokens.weight"] = rng.standard_normal((vocab, h))
        tensors[f"{p}.enorm.weight"], tensors[f"{p}.hnorm.weight"] = _norm(rng, h), _norm(rng, h)
        tensors[f"{p}.eh_proj.weight"] = _linear(rng, h, 2 * h)
        tensors[f"{p}.shared_head.norm.weight"] = _norm(rng, h)
        tensors[f"{p}.shared_head.head.weight"] = _linear(rng, vocab, h)
    dtype = getattr(torch, spec["dtype"])
    # The router's bias is float32 in published files even where the rest is bfloat16.
    tensors = {n: torch.from_numpy(np.ascontiguousarray(t)).to(
        torch.float32 if n.endswith("e_score_correction_bias") else dtype)
        for n, t in tensors.items()}
    if "quantization_config" not in c:
        return tensors
    return quantize(tensors, c, spec["seed"], getattr(torch, spec.get("scale_dtype", "float32")))


def _save(tensors, path):
    save_file(tensors, path, {"format": "pt"})
    os.chmod(path, 0o644)


def write_checkpoint(spec, out, quiet):
    """quiet: token id -> factor of its row of the head, for tokens that should be rare in answers."""
    os.makedirs(out, exist_ok=True)
    row_gain = np.ones(spec["config"]["vocab_size"])
    for token, factor in quiet.items():
        row_gain[token] = factor
    tensors = make_tensors(spec, row_gain)
    config = {**spec["config"], spec.get("dtype_key", "torch_dtype"): spec["dtype"]}
    write_json(os.path.join(out, "config.json"), config)
    write_json(os.path.join(out, "generation_config.json"),
               {k: config[k] for k in ("bos_token_id", "eos_token_id")})
    shards = spec["shards"]
    if shards == 1:
        _save(tensors, os.path.join(out, "model.safetensors"))
        return
    names, index = list(tensors), {}
    for s in range(shards):
        part = names[len(names) * s // shards:len(names) * (s + 1) // shards]
        file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
        _save({n: tensors[n] for n in part}, os.path.join(out, file))
        index.update({n: file for n in part})
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(os.path.join(out, "model.safetensors.index.json"),
               {"metadata": {"total_size": size}, "weight_map": dict(sorted(index.items()))})


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")
