#!/usr/bin/env python3
"""Writes checkpoints/NAME/: a tiny random checkpoint in the published layout, and expected.json with
what transformers computes from it in float32 with eager attention. README.md says what is in it."""
import argparse
import json
import os
import re
import shutil
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from families import CHECKPOINTS
from quantize import plain
from text_files import quiet_tokens, write_text_files
from weights import write_checkpoint, write_json

HERE = os.path.dirname(os.path.abspath(__file__))
PROMPT_LENGTHS = (59, 17, 1)
GREEDY_TOKENS = 64
# A prompt is taken only if no decision hangs on rounding: smallest lead of the best logit along the
# greedy answers, and smallest gap at the border of the chosen experts (and groups).
MIN_LEAD, MIN_ROUTE_GAP, MIN_DISTINCT = 4e-3, 2e-4, 16


class RouterTap:
    """Keeps ids, weights and the smallest gap of every router call."""

    def __init__(self, model):
        self.layers, self.gap = {}, np.inf
        for i, layer in enumerate(model.model.layers):
            gate = getattr(layer.mlp, "gate", getattr(layer.mlp, "router", None))
            if gate is not None:
                gate.register_forward_hook(lambda g, _, out, i=i: self.record(i, g, out))

    def record(self, layer, gate, out):
        logits, weights, ids = out
        order = ids.argsort(-1)
        self.layers[layer] = (ids.gather(-1, order).tolist(), weights.gather(-1, order).tolist())
        self.gap = min(self.gap, float(route_gap(gate, logits.double())))


def route_gap(gate, logits):
    bias = getattr(gate, "e_score_correction_bias", None)
    choice = logits.softmax(-1) if bias is None else logits.sigmoid() + bias
    gap = np.inf
    grouped = bias is not None or getattr(gate, "topk_method", "greedy") != "greedy"
    if grouped and gate.topk_group < gate.num_group:
        by_group = choice.view(len(choice), gate.num_group, -1)
        score = by_group.topk(1 if bias is None else 2, -1)[0].sum(-1)
        best = score.sort(-1, descending=True)[0]
        gap = (best[:, gate.topk_group - 1] - best[:, gate.topk_group]).min()
        keep = torch.zeros_like(score).scatter(1, score.topk(gate.topk_group, -1)[1], 1.0)
        choice = choice.masked_fill((keep == 0).repeat_interleave(by_group.shape[2], 1), -np.inf)
    best = choice.sort(-1, descending=True)[0]
    return min(gap, (best[:, gate.top_k - 1] - best[:, gate.top_k]).min())


def load(path):
    with open(os.path.join(path, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    if "quantization_config" not in config:
        return load_plain(path)
    # transformers needs a GPU for these formats (and takes partial blocks of FP8 for others than they
    # are): it gets the float32 weights that the file's bytes stand for.
    del config["quantization_config"]
    with tempfile.TemporaryDirectory() as directory:
        write_json(os.path.join(directory, "config.json"), config)
        save_file(plain(load_file(os.path.join(path, "model.safetensors"))),
                  os.path.join(directory, "model.safetensors"), {"format": "pt"})
        return load_plain(directory)


def load_plain(path):
    model, info = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
        output_loading_info=True)
    assert not info["missing_keys"], info
    extra = [k for k in info["unexpected_keys"]
             if int(k.split(".")[2]) < model.config.num_hidden_layers]
    assert not extra and not info["mismatched_keys"], info
    return model.eval()


def greedy(model, ids, count):
    """(tokens, smallest lead). Without a KV cache: every step is a full forward pass."""
    out, lead = [], np.inf
    for _ in range(count):
        logits = model(torch.tensor([ids + out]), use_cache=False).logits[0, -1]
        best = logits.topk(2)
        lead = min(lead, float(best.values[0] - best.values[1]))
        out.append(int(best.indices[0]))
    return out, lead


def ends(config):
    eos = config["eos_token_id"]
    return set(eos if isinstance(eos, list) else [eos])


def try_prompt(model, tap, config, ids):
    """The prompt's entry, or None when it is not a good test."""
    tap.gap = np.inf
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    layers = dict(tap.layers)
    tokens, lead = greedy(model, ids, GREEDY_TOKENS)
    if (lead < MIN_LEAD or tap.gap < MIN_ROUTE_GAP or ends(config) & set(tokens)
            or len(set(tokens)) < MIN_DISTINCT):
        return None
    n = len(ids)
    positions = sorted({0, n // 3, 2 * n // 3, n - 1})
    entry = {"ids": ids, "greedy": tokens, "greedy_lead": lead, "positions": positions,
             "logits": [[float(f"{v:.9g}") for v in logits[p].tolist()] for p in positions]}
    if layers:
        entry["route_gap"] = tap.gap
        entry["experts"] = [{"layer": i, "ids": ids_, "weights": [[float(f"{v:.7g}") for v in row]
                                                                  for row in weights]}
                            for i, (ids_, weights) in sorted(layers.items())]
    return entry


def find_prompt(model, tap, config, seed, length):
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(400):
        entry = try_prompt(model, tap, config, rng.integers(6, config["vocab_size"], length).tolist())
        if entry is not None:
            return entry
    sys.exit(f"no prompt of {length} tokens is a good test: change the checkpoint's seed")


def text_part(path, model):
    """What tokenizer and template do, and one chat answered by the model."""
    tok = AutoTokenizer.from_pretrained(path)
    texts = ["", "The choir sings.", "  two  spaces\n\nand lines\t", "it's 12345 o'clock",
             "Grüße, 世界 🎵 ﷺ", "<|user|>hi</s><think>x</think>", "a\u0301\u00e1 \u2028 'S"]
    cases = [{"text": t, "ids": tok(t)["input_ids"],
              "ids_plain": tok(t, add_special_tokens=False)["input_ids"]} for t in texts]
    for case in cases:
        case["decoded"] = tok.decode(case["ids"])
    chats = [[{"role": "user", "content": "What is the song?"}],
             [{"role": "system", "content": "Sing."}, {"role": "user", "content": " Hello! "},
              {"role": "assistant", "content": "La la."}, {"role": "user", "content": "More"}]]
    templates = [{"messages": m, "add_generation_prompt": g,
                  "text": tok.apply_chat_template(m, tokenize=False, add_generation_prompt=g)}
                 for m in chats for g in (True, False)]
    ids = tok(templates[0]["text"], add_special_tokens=False)["input_ids"]
    answer, lead = greedy(model, ids, 48)
    chat = {"messages": chats[0], "prompt_ids": ids, "output_ids": answer, "greedy_lead": lead,
            "text": tok.decode(answer, skip_special_tokens=True)}
    return {"tokenize": cases, "templates": templates, "chat": chat}


def make(name, out_root):
    spec, path = CHECKPOINTS[name], os.path.join(out_root, name)
    shutil.rmtree(path, ignore_errors=True)
    write_checkpoint(spec, path, quiet_tokens(spec.get("tokenizer")))
    if "tokenizer" in spec:
        write_text_files(spec["tokenizer"], path)
    with torch.no_grad():
        model = load(path)
        tap = RouterTap(model)
        config = spec["config"]
        prompts = [find_prompt(model, tap, config, 1000 * spec["seed"] + n, n)
                   for n in PROMPT_LENGTHS]
        expected = {"family": config["model_type"], "dtype": spec["dtype"],
                    "vocab": config["vocab_size"], "made_with": "transformers " +
                    transformers.__version__, "prompts": prompts}
        if "tokenizer" in spec:
            expected["text"] = text_part(path, model)
    write_expected(os.path.join(path, "expected.json"), expected)
    print(f"{name}: leads {[round(p['greedy_lead'], 4) for p in prompts]}, route gaps "
          f"{[round(p.get('route_gap', 0), 5) for p in prompts]}, "
          f"std {np.std(prompts[0]['logits']):.2f}, "
          f"distinct {[len(set(p['greedy'])) for p in prompts]}")


def write_expected(path, value):
    write_json(path, value)
    with open(path, encoding="utf-8") as f:
        text = f.read()
    with open(path, "w", encoding="utf-8") as f:
        f.write(compact(text))


def compact(text):
    """Puts innermost lists on one line: the files stay readable and small."""
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda m: "[" + ", ".join(
        re.sub(r"\s+", "", m.group()[1:-1]).split(",")) + "]", text)


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("names", nargs="*", help="checkpoints to make anew (default: all)")
    a.add_argument("--out", default=os.path.join(HERE, "checkpoints"))
    a = a.parse_args()
    torch.set_num_threads(1)
    for name in a.names or CHECKPOINTS:
        make(name, a.out)


if __name__ == "__main__":
    main()
