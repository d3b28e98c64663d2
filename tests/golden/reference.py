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
        theta = r["rope_theta"]
        i = np.arange(width // 2)
        f = theta ** (-2.0 * i / width)
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

            low = max(math.floor(edge(r["beta_fast"])), 0)
            high = min(math.ceil(edge(r["beta_slow"])), width - 1)
            ramp = np.clip((i - low) / max(high - low, 0.001), 0, 1)
            f = f / factor * ramp + f * (1 - ramp)
            self.scale = yarn_m(factor, r["mscale"]) / yarn_m(factor, r["mscale_all_dim"])
            self.softmax_scale = yarn_m(factor, r["mscale_all_dim"]) ** 2
        else:
            assert kind == "default", kind
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
            self.w.update({n: t.double().numpy() for n, t in load_file(file).items()})
        c = self.c
        self.mla = "kv_lora_rank" in c
        if self.mla:
            width = c["qk_rope_head_dim"]
        else:
            part = c.get("rope_parameters", c).get("partial_rotary_factor", 1.0)
            width = int(c["head_dim"] * part)
        self.rope = Rope(c, width)

    def linear(self, name, x):
        y = x @ self.w[name + ".weight"].T
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def attend(self, q, k, v, scale):
        """q, k: [T, H, d], v: [T, H, dv]; causal."""
        s = np.einsum("qhd,khd->hqk", q, k) * scale
        s[:, ~np.tri(len(q), dtype=bool)] = -np.inf
        return np.einsum("hqk,khd->qhd", softmax(s), v).reshape(len(q), -1)

    def gqa(self, p, x):
        c, d = self.c, self.c["head_dim"]
        q = self.linear(p + "q_proj", x).reshape(len(x), c["num_attention_heads"], d)
        k = self.linear(p + "k_proj", x).reshape(len(x), c["num_key_value_heads"], d)
        v = self.linear(p + "v_proj", x).reshape(len(x), c["num_key_value_heads"], d)
        if c.get("use_qk_norm"):
            q = rms(q, self.w[p + "q_norm.weight"], c["rms_norm_eps"])
            k = rms(k, self.w[p + "k_norm.weight"], c["rms_norm_eps"])
        q, k = self.rope.rotate(q, False), self.rope.rotate(k, False)
        repeat = q.shape[1] // k.shape[1]
        k, v = np.repeat(k, repeat, 1), np.repeat(v, repeat, 1)
        return self.linear(p + "o_proj", self.attend(q, k, v, d ** -0.5))

    def mla_attention(self, p, x):
        c, heads, nope = self.c, self.c["num_attention_heads"], self.c["qk_nope_head_dim"]
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
        q = np.concatenate([q[..., :nope], self.rope.rotate(q[..., nope:], True)], -1)
        k_rope = np.repeat(self.rope.rotate(k_rope, True), heads, 1)
        k = np.concatenate([kv[..., :nope], k_rope], -1)
        scale = q.shape[-1] ** -0.5 * self.rope.softmax_scale
        return self.linear(p + "o_proj", self.attend(q, k, kv[..., nope:], scale))

    def mlp(self, p, x):
        return self.linear(p + "down_proj",
                           silu(self.linear(p + "gate_proj", x)) * self.linear(p + "up_proj", x))

    def route(self, p, x):
        """(ids ascending, weights) per token."""
        c, logits = self.c, x @ self.w[p + "gate.weight"].T
        v2 = c["model_type"] == "deepseek_v2"
        score = softmax(logits) if v2 else 1 / (1 + np.exp(-logits))
        choice = score if v2 else score + self.w[p + "gate.e_score_correction_bias"]
        if not v2 or c["topk_method"] == "group_limited_greedy":
            groups = choice.reshape(len(x), c["n_group"], -1)
            best = np.sort(groups, -1)[..., -1:] if v2 else np.sort(groups, -1)[..., -2:]
            keep = np.argsort(-best.sum(-1), -1, kind="stable")[:, :c["topk_group"]]
            mask = np.full(groups.shape, -np.inf)
            for t, ids in enumerate(keep):
                mask[t, ids] = 0
            choice = choice + mask.reshape(choice.shape)
        ids = np.sort(np.argsort(-choice, -1, kind="stable")[:, :c["num_experts_per_tok"]], -1)
        weights = np.take_along_axis(score, ids, -1)
        if c["norm_topk_prob"] and not v2:
            weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
        return ids, weights * c["routed_scaling_factor"]

    def ffn(self, i, x, routes):
        p = f"model.layers.{i}.mlp."
        if p + "gate.weight" not in self.w:
            return self.mlp(p, x)
        ids, weights = self.route(p, x)
        routes[i] = (ids, weights)
        y = self.mlp(p + "shared_experts.", x)
        for t in range(len(x)):
            for e, weight in zip(ids[t], weights[t]):
                y[t] += weight * self.mlp(f"{p}experts.{e}.", x[t])
        return y

    def forward(self, ids):
        c, routes, w = self.c, {}, self.w
        x = w["model.embed_tokens.weight"][ids]
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            attention = self.mla_attention if self.mla else self.gqa
            x = x + attention(p + "self_attn.", rms(x, w[p + "input_layernorm.weight"],
                                                    c["rms_norm_eps"]))
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
    paths = sorted(glob.glob(os.path.join(HERE, "checkpoints", "*")))
    sys.exit(not all([check(p) for p in paths]))
