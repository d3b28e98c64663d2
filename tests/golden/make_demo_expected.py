#!/usr/bin/env python3
"""Writes demo_expected.json: what transformers computes in float32 from the default model, the directory that
`choir model demo` makes (its path is the argument). README.md says what is in it."""
import argparse
import os

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from make_checkpoints import write_expected

HERE = os.path.dirname(os.path.abspath(__file__))
QUESTIONS = [
    "Hi!",
    "What is the capital of Japan?",
    "Tell me the capital of France.",
    "What is the capital of Germany?",
    "What is the capital of Russia?",
    "What is the capital of Egypt?",
    "What is the capital of England?",
    "How many days are there in a week?",
    "Write one sentence about cats.",
    "Summarize: The cat sat on the mat and slept all day.",
]
DETAILED = 1        # the question whose logits and expert counts are kept
MAX_TOKENS = 64
SAMPLE_STEP = 256   # every 256th logit


def answer(model, ids, eos):
    """(greedy tokens with the EOS, smallest lead of the best logit)"""
    out, lead, cache, step = [], float("inf"), None, torch.tensor([ids])
    while len(out) < MAX_TOKENS and (not out or out[-1] != eos):
        result = model(step, past_key_values=cache, use_cache=True)
        cache, best = result.past_key_values, result.logits[0, -1].topk(2)
        lead = min(lead, float(best.values[0] - best.values[1]))
        out.append(int(best.indices[0]))
        step = torch.tensor([out[-1:]])
    return out, lead


def detail(model, ids):
    """Logits of the last position, and tokens per layer and expert, for one prompt."""
    counts, handles = {}, []
    for i, layer in enumerate(model.model.layers):
        if hasattr(layer.mlp, "gate"):
            def count(_, __, out, i=i):
                counts[i] = torch.bincount(out[2].flatten(),
                                           minlength=model.config.n_routed_experts).tolist()
            handles.append(layer.mlp.gate.register_forward_hook(count))
    logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
    for h in handles:
        h.remove()
    best = logits.topk(16)
    sample = list(range(0, len(logits), SAMPLE_STEP))
    kept = sorted(set(sample) | set(best.indices.tolist()))
    return {"question": DETAILED, "largest": float(logits.abs().max()),
            "logit_ids": kept, "logits": [float(f"{logits[i]:.9g}") for i in kept],
            "expert_counts": [{"layer": i, "tokens": c} for i, c in sorted(counts.items())]}


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("model", help="directory made by choir model demo")
    a = a.parse_args()
    torch.set_num_threads(1)
    tok = AutoTokenizer.from_pretrained(a.model)
    model = AutoModelForCausalLM.from_pretrained(
        a.model, dtype=torch.float32, attn_implementation="eager",
        experts_implementation="eager").eval()
    questions = []
    with torch.no_grad():
        for q in QUESTIONS:
            text = tok.apply_chat_template([{"role": "user", "content": q}], tokenize=False,
                                           add_generation_prompt=True)
            ids = tok(text, add_special_tokens=False)["input_ids"]
            out, lead = answer(model, ids, tok.eos_token_id)
            questions.append({"question": q, "prompt": text, "prompt_ids": ids, "output_ids": out,
                              "text": tok.decode(out, skip_special_tokens=True),
                              "greedy_lead": lead})
            print(f"{q} -> {questions[-1]['text']} [{lead:.2f}]")
        expected = {"made_with": "transformers " + transformers.__version__,
                    "questions": questions,
                    "detail": detail(model, questions[DETAILED]["prompt_ids"])}
    write_expected(os.path.join(HERE, "demo_expected.json"), expected)


if __name__ == "__main__":
    main()
