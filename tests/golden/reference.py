#!/usr/bin/env python3
"""Checks checkpoints/*/expected.json against a second opinion: the families' formulas in float64 numpy,
straight from the files, sharing no code with transformers."""
import glob
import json
import math
import os
import sys

import numpy as np
from safetensors.torch import load_file

from quantize import plain

HERE = os.path.dirname(os.path.abspath(__file__))


def rms(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def yarn_m(factor, a):
    return 0.1 * a * math.log(factor) + 1 if factor > 1 else 1.0


class Rope:
    """Angles of one model; `scale` multiplies cos and sin."""

    def __init__(self, c, width):
        r = c.get("rope_parameters") or {"rope_theta": c.get("rope_theta"),
                                         **(c.get("rope_scaling") or {})}
        kind = r.get("rope_type", r.get("type", "default"))
        theta = r["rope_theta"] or {"mixtral": 1e6}[c["model_type"]]
        i = np.arange(width // 2)
        f = theta ** (-2.0 * i / width)
        # dynamic: as default up to max_position_embeddings, and nothing here is longer.
        self.scale, self.softmax_scale = 1.0, 1.0
        if kind == "llama3":
            old, low, high, factor = (r[k] for k in (
                "original_max_position_embeddings", "low_freq_factor", "high_freq_factor", "factor"))
            wave = 2 * math.pi / f
            s = np.clip((old / wave - low) / (high - low), 0, 1)
            f = (1 - s) * f / factor + s * f
        elif kind == "yarn":
            old, factor = r["original_max_position_embeddings"], r["factor"]

            def edge(n):
                return width * math.log(old / (n * 2 * math.pi)) / (2 * math.log(theta))

            low, high = edge(r.get("beta_fast", 32)), edge(r.get("beta_slow", 1))
            if r.get("truncate", True):
                low, high = math.floor(low), math.ceil(high)
            low, high = max(low, 0), min(high, width - 1)
            ramp = np.clip((i - low) / max(high - low, 0.001), 0, 1)
            f = f / factor * ramp + f * (1 - ramp)
            all_dim = r.get("mscale_all_dim", 0)
            self.scale = r.get("attention_factor") or (
                yarn_m(factor, r.get("mscale", 1)) / yarn_m(factor, all_dim))
            self.softmax_scale = yarn_m(factor, all_dim) ** 2
        elif kind == "linear":
            f = f / r["factor"]
        else:
            assert kind in ("default", "dynamic"), kind
        self.f, self.width = f, width

    def rotate(self, x, interleaved):
        """x: [T, heads, d]; the first `width` columns turn."""
        angle = np.arange(len(x))[:, None, None] * self.f
        cos, sin = np.cos(angle) * self.scale, np.sin(angle) * self.scale
        half = self.width // 2
        first = slice(0, self.width, 2) if interleaved else slice(0, half)
        second = slice(1, self.width, 2) if interleaved else slice(half, self.width)
        out = x.copy()
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., second] * cos + x[..., first] * sin
        return out


class Model:
    def __init__(self, path):
        with open(os.path.join(path, "config.json"), encoding="utf-8") as f:
            self.c = json.load(f)
        self.w = {}
        for file in glob.glob(os.path.join(path, "*.safetensors")):
            self.w.update({n: t.double().numpy() for n, t in plain(load_file(file)).items()})
        c = self.c
        self.mla = "kv_lora_rank" in c
        if self.mla:
            width = c["qk_rope_head_dim"]
        else:
            part = c.get("rope_parameters", c).get("partial_rotary_factor", 1.0)
            self.head_dim = c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
            width = int(self.head_dim * part)
        self.rope = Rope(c, width)

    def linear(self, name, x):
        y = x @ self.w[name + ".weight"].T
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def window(self, layer):
        """How many keys a query sees, itself included; None: all before it."""
        c = self.c
        if c["model_type"] == "mixtral":
            return c["sliding_window"]
        if c["model_type"] == "gpt_oss":
            types = c.get("layer_types") or ["sliding_attention", "full_attention"] * (layer + 1)
            return c["sliding_window"] if types[layer] == "sliding_attention" else None
        if not c.get("use_sliding_window"):
            return None
        if c["model_type"] == "qwen3_moe":
            return c["sliding_window"]
        types = c.get("layer_types")
        slides = types[layer] == "sliding_attention" if types else layer >= c["max_window_layers"]
        return c["sliding_window"] if slides else None

    def attend(self, q, k, v, scale, window=None, sinks=None):
        """q, k: [T, H, d], v: [T, H, dv]; causal. sinks: [H], logits that only take their share."""
        s = np.einsum("qhd,khd->hqk", q, k) * scale
        distance = np.arange(len(q))[:, None] - np.arange(len(q))
        s[:, (distance < 0) | (distance >= (window or len(q)))] = -np.inf
        if sinks is not None:
            column = np.broadcast_to(sinks[:, None, None], (*s.shape[:2], 1))
            s = np.concatenate([s, column], -1)
        return np.einsum("hqk,khd->qhd", softmax(s)[..., :len(q)], v).reshape(len(q), -1)

    def gqa(self, layer, x):
        c, d, p = self.c, self.head_dim, f"model.layers.{layer}.self_attn."
        q = self.linear(p + "q_proj", x).reshape(len(x), c["num_attention_heads"], d)
        k = self.linear(p + "k_proj", x).reshape(len(x), c["num_key_value_heads"], d)
        v = self.linear(p + "v_proj", x).reshape(len(x), c["num_key_value_heads"], d)
        if c.get("use_qk_norm", c["model_type"].startswith("qwen3")):
            q = rms(q, self.w[p + "q_norm.weight"], c["rms_norm_eps"])
            k = rms(k, self.w[p + "k_norm.weight"], c["rms_norm_eps"])
        q, k = self.rope.rotate(q, False), self.rope.rotate(k, False)
        repeat = q.shape[1] // k.shape[1]
        k, v = np.repeat(k, repeat, 1), np.repeat(v, repeat, 1)
        out = self.attend(q, k, v, d ** -0.5, self.window(layer), self.w.get(p + "sinks"))
        return self.linear(p + "o_proj", out)

    def mla_attention(self, layer, x):
        c, heads, nope = self.c, self.c["num_attention_heads"], self.c["qk_nope_head_dim"]
        p, interleaved = f"model.layers.{layer}.self_attn.", c.get("rope_interleave", True)
        if c["q_lora_rank"] is None:
            q = self.linear(p + "q_proj", x)
        else:
            q = self.linear(p + "q_b_proj", rms(self.linear(p + "q_a_proj", x),
                                                self.w[p + "q_a_layernorm.weight"], 1e-6))
        q = q.reshape(len(x), heads, -1)
        kv = self.linear(p + "kv_a_proj_with_mqa", x)
        latent, k_rope = kv[:, :c["kv_lora_rank"]], kv[:, None, c["kv_lora_rank"]:]
        latent = rms(latent, self.w[p + "kv_a_layernorm.weight"], 1e-6)
        kv = self.linear(p + "kv_b_proj", latent).reshape(len(x), heads, -1)
        q = np.concatenate([q[..., :nope], self.rope.rotate(q[..., nope:], interleaved)], -1)
        k_rope = np.repeat(self.rope.rotate(k_rope, interleaved), heads, 1)
        k = np.concatenate([kv[..., :nope], k_rope], -1)
        scale = q.shape[-1] ** -0.5 * self.rope.softmax_scale
        return self.linear(p + "o_proj", self.attend(q, k, kv[..., nope:], scale))

    def mlp(self, p, x, names=("gate_proj", "up_proj", "down_proj")):
        gate, up, down = (p + n for n in names)
        return self.linear(down, silu(self.linear(gate, x)) * self.linear(up, x))

    def route(self, p, x):
        """(ids ascending, weights) per token."""
        c, logits = self.c, x @ self.w[p + "gate.weight"].T
        v2, bias = c["model_type"] == "deepseek_v2", p + "gate.e_score_correction_bias"
        score = 1 / (1 + np.exp(-logits)) if bias in self.w else softmax(logits)
        choice = score + self.w[bias] if bias in self.w else score
        if bias in self.w or c.get("topk_method") == "group_limited_greedy":
            groups = choice.reshape(len(x), c["n_group"], -1)
            best = np.sort(groups, -1)[..., -1:] if v2 else np.sort(groups, -1)[..., -2:]
            keep = np.argsort(-best.sum(-1), -1, kind="stable")[:, :c["topk_group"]]
            mask = np.full(groups.shape, -np.inf)
            for t, ids in enumerate(keep):
                mask[t, ids] = 0
            choice = choice + mask.reshape(choice.shape)
        ids = np.sort(np.argsort(-choice, -1, kind="stable")[:, :c["num_experts_per_tok"]], -1)
        weights = np.take_along_axis(score, ids, -1)
        if c.get("norm_topk_prob", True) and not v2:
            weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
        return ids, weights * c.get("routed_scaling_factor", 1.0)

    def gpt_oss_ffn(self, i, x, routes):
        c, w, p, y = self.c, self.w, f"model.layers.{i}.mlp.", np.zeros_like(x)
        logits = self.linear(p + "router", x)
        ids = np.sort(np.argsort(-logits, -1, kind="stable")[:, :c["num_experts_per_tok"]], -1)
        weights = softmax(np.take_along_axis(logits, ids, -1))
        routes[i] = (ids, weights)
        p += "experts."
        for t in range(len(x)):
            for e, weight in zip(ids[t], weights[t]):
                both = x[t] @ w[p + "gate_up_proj"][e] + w[p + "gate_up_proj_bias"][e]
                gate = np.minimum(both[0::2], c["swiglu_limit"])
                up = np.clip(both[1::2], -c["swiglu_limit"], c["swiglu_limit"])
                inner = (up + 1) * gate / (1 + np.exp(-1.702 * gate))
                y[t] += weight * (inner @ w[p + "down_proj"][e] + w[p + "down_proj_bias"][e])
        return y

    def ffn(self, i, x, routes):
        if self.c["model_type"] == "gpt_oss":
            return self.gpt_oss_ffn(i, x, routes)
        mixtral = self.c["model_type"] == "mixtral"
        p = f"model.layers.{i}." + ("block_sparse_moe." if mixtral else "mlp.")
        names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        if p + "gate.weight" not in self.w:
            return self.mlp(p, x)
        ids, weights = self.route(p, x)
        routes[i] = (ids, weights)
        shared = p + "shared_experts."
        y = self.mlp(shared, x) if shared + "up_proj.weight" in self.w else np.zeros_like(x)
        for t in range(len(x)):
            for e, weight in zip(ids[t], weights[t]):
                y[t] += weight * self.mlp(f"{p}experts.{e}.", x[t], names)
        return y

    def forward(self, ids):
        c, routes, w = self.c, {}, self.w
        x = w["model.embed_tokens.weight"][ids]
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            attention = self.mla_attention if self.mla else self.gqa
            x = x + attention(i, rms(x, w[p + "input_layernorm.weight"], c["rms_norm_eps"]))
            x = x + self.ffn(i, rms(x, w[p + "post_attention_layernorm.weight"],
                                    c["rms_norm_eps"]), routes)
        head = w["model.embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"]
        return rms(x, w["model.norm.weight"], c["rms_norm_eps"]) @ head.T, routes


def check(path):
    model, worst, steps = Model(path), 0.0, 0
    with open(os.path.join(path, "expected.json"), encoding="utf-8") as f:
        expected = json.load(f)
    for prompt in expected["prompts"]:
        n = len(prompt["ids"])
        logits, routes = model.forward(prompt["ids"] + prompt["greedy"][:-1])
        want = np.array(prompt["logits"])
        worst = max(worst, np.abs(logits[prompt["positions"]] - want).max() / np.abs(want).max())
        steps += (logits[n - 1:].argmax(-1) != prompt["greedy"]).sum()
        for layer in prompt.get("experts", []):
            ids, weights = routes[layer["layer"]]
            assert (ids[:n] == layer["ids"]).all(), (path, layer["layer"])
            assert np.allclose(weights[:n], layer["weights"], rtol=1e-4), (path, layer["layer"])
        assert {e["layer"] for e in prompt.get("experts", [])} == set(routes)
    print(f"{os.path.basename(path)}: largest relative difference {worst:.1e}, "
          f"{steps} greedy tokens differ")
    return worst < 1e-5 and steps == 0


if __name__ == "__main__":
    paths = sys.argv[1:] or sorted(glob.glob(os.path.join(HERE, "checkpoints", "*")))
    sys.exit(not all([check(p) for p in paths]))
