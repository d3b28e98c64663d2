#!/usr/bin/env python3
"""Makes tests/golden/tokenizer/: small tokenizers and what the `tokenizers` package (0.23) does with them.

    pip install tokenizers && python tests/golden/make_tokenizer_goldens.py

FAMILY/tokenizer.json, tokenizer_config.json   one small tokenizer as a family of published models has it
FAMILY/cases.jsonl    a line: {"text", "ids" (with special tokens), "plain", "decoded", "skipped"}
components.jsonl      a line: {"name", "tokenizer", "cases": [[text, ids, decoded], ...]}: one part each
words.jsonl           a line: {"name", "pre_tokenizer", "cases": [[text, [word, ...]], ...]}
"""
import json
import os
import random

from real_vocabularies import KIMI, QWEN35, TEKKEN
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer")

CORPUS = [
    "The choir sings and the organ plays; it's what they've practised for 10 weeks, isn't it?",
    "Der Chor singt über schöne Flüsse, und die Straße wird nass. Größe: 1.234,56 €",
    "Le chœur chante déjà l'été; ça coûte 3½ francs, n'est-ce pas ?",
    "def encode(self, text: str) -> list[int]:\n    return [self.vocab[t] for t in text.split()]\n",
    "#include <vector>\nint main() {\n\tstd::vector<int> v(10);\n\treturn v.size() == 10 ? 0 : 1;\n}\n",
    "合唱团在大教堂里唱歌。今天天气很好,我们去唱歌吧!",
    "合唱団は歌います。カタカナとひらがな、漢字も。",
    "Хор поёт в большом соборе, а орган играет громко.",
    "الجوقة تغني في الكاتدرائية",
    "המקהלה שרה בקול רם",
    "नमस्ते दुनिया, कोरस गाता है",
    "😀 😃 👩‍👩‍👧‍👦 🇩🇪 music ♪♫ and arrows → ⇒ ≠ ≤",
    "x = 3.14159; y = 2718281828; z = 0xDEADBEEF; date 2024-11-25 12:30:45",
    "    indented\n\n\n        more\t\ttabs\r\nwindows line\r\n   ",
] * 3

TEXTS = [
    "", " ", "  ", "\n", "\n\n \n", "\t\t \t", " \r\n \r\n", "a", " a", "a ", "  a  b   c    ",
    "Hello world", "Hello, world! It's 2024.", "they've they'd I'M we'LL 'S 'ſ can't",
    "1234567890", "12 345 6789 01234", "3.14e-10 ½ Ⅷ ² ٣٤٥ १२३", "v1.2.3-rc4", "x" * 70, "ab" * 120,
    " " * 90, "\n" * 75, "=" * 33 + "\n", "The quick brown fox\njumps  over\r\nthe lazy\tdog",
    "合唱团在唱歌", "今天我们去唱歌吧!ABC中文123混合", "カタカナとひらがな。漢字", "한국어 문장입니다",
    "Straße über Größe", "cafe\u0301 caf\u00e9 e\u0301\u0323", "\u1e9b\u0323 ﬁ ﬀ Å Å",
    "İstanbul ıIiİ DİYARBAKIR", "😀😃 👩‍👩‍👧‍👦🇩🇪 👍🏽", "שלום עולם", "مرحبا بالعالم \u202eabc\u202c",
    "नमस्ते दुनिया", "\u0000\u0001\u001f\u007f\u0085\u00a0\u00ad", "a\u180eb\u200bc\u200dd\ufeffe\u2060f",
    "a\u2028b\u2029c\u3000d\u1680e\u2009f", "\ufffd \ufffe \U0010ffff \ue000", "\u0378\u0379 \U000e0080",
    "𝒳𝔂𝓏 𐍈 𠀀𠮷", "int main() { return 0; } // ok", "for(i=0;i<10;++i){\n\tf(i);\n}\n",
    "https://example.org/a?b=c&d=e#f", "user@example.org", "C:\\path\\to\\file", "`code` **bold** _it_",
    "<|begin|>user<|end|>\n", "text<|begin|>text <|end|> text", "<|begin|><|begin|>", "<|begin", "<|beg<|begin|>in|>",
    "<think>\nhm\n</think>\n\nyes", "  <|strip|>  x", "a<|strip|>b", "a \n <|strip|> \n b", "<|left|> <|left|>  <|right|>  x",
    "one word oneword word wordy sword", "Word WORD wörd", "Ｗｏｒｄ ﬁxed NORM norm", "émile e\u0301mile E\u0301MILE",
    "▁ ▁▁ a▁b", "<0x41> <0xE4><0xBD><0xA0>", "<s> </s> <unk>", "##a a</w>", "Ġa Ċ", "é ÿ \u0142 \u0143",
    "_a_b__c", "don't-stop_me now...", "a\u0301\u0302\u0303\u0304b", "ffi ﬃ ß ẞ SS", "①②③ ⒶⒷ 🅰 〇 々",
    "١٢٣٤٥٦ ۱۲۳ ๑๒๓", "€£¥ $100 100% §5 ©", "a‿b⁀c＿d", "\r", "\r\n\r\n", "a\rb", "  \n  x", "x\n  \n  y",
]

# Characters of Unicode 15 and later, which the parts of the package know to different degrees.
LATER = ["a\U0001fae8b \U0001fa77! \U0001f6dc?", "x\u0897\u0ece\U00010efd \U00031350\U0002ebf0中 \U00011f04\U00011f50\U0001e4f1",
         "\U00010d50\U00010d70\ua7cb \U00010d40\U00011bf012 \u1b4e\U00011f43.\u1b7f", "e\u08d3\u0301\u0323 e\u0301\u08d3\u0323 \u1dfa\u0301 \u32ff",
         "\U00011938\U00011935\U00011930 \U00016d63\U00016d67 \U0001e030\U0001e08f \u2ffc\u31ef \U0001cc00"]


def noise(count):
    rng = random.Random(20241125)
    pools = [" \t\n\r\u00a0\u3000\u2028", "abcXYZéßſKİı", "0123456789½٣", ".,-_'’!?#$%", "中文漢字かなカナ한",
             "\u0301\u0323\u200d\u20dd\u0300", "😀🇩🇪👍🏽\U0001f1e9", "אבגالعرب", "\u0378\U000e0080\ue000\u180e"]
    texts = []
    for _ in range(count):
        texts.append("".join(rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 40))))
    return texts


def train(pre, normalizer=None, vocab=500, alphabet=None, **kw):
    t = Tokenizer(models.BPE(**kw))
    t.pre_tokenizer, t.normalizer = pre, normalizer or normalizers.Sequence([])
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=vocab, show_progress=False, initial_alphabet=alphabet or [],
        special_tokens=kw.get("unk_token") and [kw["unk_token"]] or []))
    return json.loads(t.to_str())


BYTES = pre_tokenizers.ByteLevel.alphabet()
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
BYTE_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def added(content, **flags):
    token = dict(id=None, content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    token.update(flags)
    return token


def number(spec, tokens):
    """Gives ids to added tokens as the package does."""
    vocab = spec["model"]["vocab"]
    free = len(vocab)
    for token in tokens:
        if token["content"] in vocab:
            token["id"] = vocab[token["content"]]
        else:
            token["id"], free = free, free + 1
    spec["added_tokens"] = sorted(tokens, key=lambda t: t["id"])


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥\u0800-一가-퟿]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def template(*ids):
    return {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": t, "type_id": 0}} if t else {"Sequence": {"id": "A", "type_id": 0}} for t, _ in ids],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in ids if t}}


def byte_level_family(splits, vocab=420, **kw):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(s), "isolated") for s in splits]
                                  + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    spec = train(pre, vocab=vocab, alphabet=BYTES, **kw)
    spec.update(normalizer=None, decoder=BYTE_DECODER, post_processor=None,
                pre_tokenizer={"type": "Sequence", "pretokenizers": [split(s) for s in splits] + [BYTE_LEVEL]})
    return spec


def old_merges(spec):
    spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]


def families():
    spec = byte_level_family(DEEPSEEK)
    number(spec, [added("<｜begin▁of▁sentence｜>"), added("<｜end▁of▁sentence｜>"),
                  added("<|begin|>", normalized=True, special=False), added("<|end|>", normalized=True, special=False),
                  added("<think>", normalized=True, special=False), added("</think>", normalized=True, special=False)])
    spec["post_processor"] = BYTE_LEVEL
    old_merges(spec)
    yield "deepseek_v3", spec, dict(add_bos_token=True, add_eos_token=False,
                                    bos_token={"__type": "AddedToken", "content": "<｜begin▁of▁sentence｜>"},
                                    eos_token={"__type": "AddedToken", "content": "<｜end▁of▁sentence｜>"})

    spec = byte_level_family([LLAMA3])
    spec["model"]["ignore_merges"] = True
    # Whole words that no merge makes.
    for word in ("Ġpractised", "isn", "ĠGröÃŁe", "å¤§"):
        spec["model"]["vocab"].setdefault(word, len(spec["model"]["vocab"]))
    number(spec, [added("<|begin|>"), added("<|end|>")])
    begin = spec["added_tokens"][0]["id"]
    spec["post_processor"] = {"type": "Sequence", "processors": [BYTE_LEVEL, template(("<|begin|>", begin), ("", 0))]}
    yield "llama3", spec, dict(bos_token="<|begin|>", eos_token="<|end|>")

    spec = byte_level_family([O200K])
    number(spec, [added("<|begin|>"), added("<|end|>")])
    yield "o200k", spec, dict(bos_token=None, eos_token="<|end|>")

    spec = byte_level_family([QWEN])
    spec["normalizer"] = {"type": "NFC"}
    number(spec, [added("<|begin|>"), added("<|end|>"), added("<|strip|>", lstrip=True, rstrip=True),
                  added("<|left|>", lstrip=True), added("<|right|>", rstrip=True, special=False),
                  added("word", single_word=True, normalized=True, special=False),
                  added("e\u0301mile", normalized=True, special=False), added("norm", normalized=False, special=False),
                  added("  ", normalized=False, special=False)])
    yield "qwen", spec, dict(eos_token="<|end|>", add_bos_token=False)

    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    spec = train(pre, vocab=420, alphabet=BYTES)
    spec.update(normalizer=None, decoder=BYTE_DECODER, post_processor=None)
    missing = [c for c in "ĄĆēĔĖĝÀÁñòõö÷øùúûüýþÿ" if c in spec["model"]["vocab"]]
    used = {t for m in spec["model"]["merges"] for t in m}
    for c in missing:
        if c not in used:
            del spec["model"]["vocab"][c]
    spec["model"]["vocab"] = {t: i for i, t in enumerate(spec["model"]["vocab"])}
    number(spec, [added("<|begin|>"), added("<|end|>")])
    yield "smollm", spec, dict(bos_token="<|begin|>", eos_token="<|end|>")

    spm = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spec = train(pre_tokenizers.Metaspace(prepend_scheme="never"), spm, vocab=260, unk_token="<unk>")
    vocab = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    vocab += [t for t in spec["model"]["vocab"] if t not in vocab]
    rare = {c for c in "团堂教громנष½♪" if c in vocab and not any(c in t for m in spec["model"]["merges"] for t in m)}
    spec["model"]["vocab"] = {t: i for i, t in enumerate(t for t in vocab if t not in rare)}
    spec["model"].update(byte_fallback=True, fuse_unk=True)
    spec.update(pre_tokenizer=None, post_processor=template(("<s>", 1), ("", 0)))
    spec["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    spec["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    number(spec, [added("<unk>"), added("<s>"), added("</s>"), added("<|begin|>", normalized=True, special=False)])
    yield "mixtral", spec, dict(bos_token="<s>", eos_token="</s>", add_bos_token=True)

    spec = json.loads(json.dumps(spec))
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    spec.update(pre_tokenizer=meta, normalizer=None, decoder=meta)
    spec["model"].update(byte_fallback=False, fuse_unk=False)
    yield "metaspace", spec, dict(bos_token="<s>", eos_token="</s>")


CHARS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,-_'!?\n\t▁éßÅ中文か") + ["e\u0301"[1], "a</w>", "##b"]
MERGES = [("a", "b"), ("ab", "c"), ("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("w", "o"), ("wo", "r"), ("▁", "a"),
          ("1", "2"), ("a", "a"), ("aa", "aa"), ("t", "h"), ("th", "e")]


def component(**parts):
    tokens = ["<unk>"] + CHARS + [f"<0x{b:02X}>" for b in range(256)]
    model = dict(type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None, end_of_word_suffix=None,
                 fuse_unk=False, byte_fallback=False, ignore_merges=False)
    for a, b in MERGES:
        tokens.append(a + b)
    tokens = list(dict.fromkeys(tokens + parts.pop("tokens", [])))
    model.update(parts.pop("model", {}))
    model.update(vocab={t: i for i, t in enumerate(tokens)}, merges=[list(m) for m in parts.pop("merges", MERGES)])
    spec = dict(version="1.0", truncation=None, padding=None, added_tokens=[], normalizer=None, pre_tokenizer=None,
                post_processor=None, decoder=None, model=model)
    spec.update(parts)
    return spec


WORDS = {
    f"{kind} {behavior}{' inverted' * inv}": dict(split("x", behavior, bool(inv)), pattern=pattern)
    for kind, pattern in (("regex", {"Regex": r"\s+|\d"}), ("literal", {"String": "a"}), ("empty", {"Regex": "x*"}))
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous") for inv in (0, 1)
}
WORDS.update({
    "digits": {"type": "Digits", "individual_digits": False},
    "digits individual": {"type": "Digits", "individual_digits": True},
    "whitespace": {"type": "Whitespace"},
    "whitespace split": {"type": "WhitespaceSplit"},
    "punctuation": {"type": "Punctuation", "behavior": "Isolated"},
    "punctuation contiguous": {"type": "Punctuation", "behavior": "Contiguous"},
    "byte level": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "byte level then split": {"type": "Sequence", "pretokenizers": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}, split("Ġ", "MergedWithNext")]},
    "metaspace always": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    "metaspace never": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "never", "split": True},
    "metaspace whole": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
    "split then metaspace first": {"type": "Sequence", "pretokenizers": [
        split(r"\s", "Removed"), {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}]},
})
for i, pattern in enumerate([
        LLAMA3, QWEN, O200K, *DEEPSEEK, r"\w+|[^\w\s]+", r"\W", r"\b", r"\B", r"\h+", r"[\h_]+", r"\d\D", r"^.|.$", r"\A.|.\z",
        r"(?i)str|GR", r"(?m:a.b)", r"a(?i)b|c", r"\p{Han}+", r"\p{Hiragana}|\p{Katakana}", r"\P{L}+", r"\p{^L}+", r"[[:alpha:]]+",
        r"[[:punct:]]", r"[[:space:][:digit:]]+", r"[a-z&&[^aeiou]]+", r"[\p{L}&&[^\p{Han}]]+", r"[a-c[x-z]]+", r"\p{N}{1,3}+",
        r"(ab){2}?", r"b{,2}", r"a{2,3}?", r"[^\s\p{L}]+", r"\s+(?!\S)", r"(?<=a)b|(?<!a)c", r"(?>a+)b", r"\u4e2d|\x{6587}|\x41",
        r"[\u0041-\u005A]+", r"\R", r"(?<n>a)b", r"[^\r\n]+", r"[\]\-^]", r"\t|\n|\v|\f", r"\.\*\+\?", r"x*?", r"\S+", r"[\S]+", r"[^\S\n]+",
        r"\p{Alpha}+", r"\p{Lower}|\p{Upper}", r"[\w-]+", r"\p{Any}", r"a++|b*+",
        KIMI, TEKKEN, QWEN35, r"\d{1,3}(?=(?:\d{3})*\b)", r"[^\r\n\p{L}\p{N}]?+\p{L}+|[^\s\p{L}\p{N}]++[\r\n]*|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"]):
    WORDS[f"regex {i}"] = split(pattern)


def components():
    yield "no decoder", component()
    yield "fused unk", component(model=dict(fuse_unk=True))
    yield "no unk", component(model=dict(unk_token=None))
    yield "byte fallback", component(model=dict(byte_fallback=True), decoder={"type": "ByteFallback"})
    partial = component(model=dict(byte_fallback=True, fuse_unk=True))
    for b in ("<0xF0>", "<0xE2>"):
        del partial["model"]["vocab"][b]
    yield "byte fallback with gaps", partial
    yield "prefix and suffix", component(model=dict(continuing_subword_prefix="##", end_of_word_suffix="</w>"), merges=[("a", "##b")],
                                         tokens=["##a", "##c", "##b</w>", "ab", "b</w>"],
                                         pre_tokenizer={"type": "WhitespaceSplit"}, decoder={"type": "BPEDecoder", "suffix": "</w>"})
    yield "lowercase", component(normalizer={"type": "Lowercase"})
    yield "strip accents", component(normalizer={"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]})
    yield "strip", component(normalizer={"type": "Strip", "strip_left": True, "strip_right": True})
    yield "strip left", component(normalizer={"type": "Strip", "strip_left": True, "strip_right": False},
                                  pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True})
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield form, component(normalizer={"type": form}, model=dict(byte_fallback=True))
    yield "replace regex", component(normalizer={"type": "Replace", "pattern": {"Regex": r"\s{2,}|l+"}, "content": " L "})
    yield "normalizer byte level", component(normalizer={"type": "ByteLevel"})
    yield "roberta", component(post_processor={"type": "RobertaProcessing", "sep": ["b", 2], "cls": ["a", 1], "trim_offsets": True, "add_prefix_space": True})
    yield "bert", component(post_processor={"type": "BertProcessing", "sep": ["b", 2], "cls": ["a", 1]})
    yield "template", component(post_processor=template(("a", 1), ("", 0), ("b", 2), ("c", 3)))
    yield "decode metaspace", component(decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True})
    yield "decode fuse metaspace", component(decoder={"type": "Sequence", "decoders": [
        {"type": "Fuse"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]})
    yield "decode replace regex", component(decoder={"type": "Replace", "pattern": {"Regex": "[aeiou]"}, "content": "*"})
    yield "decode fuse replace strip", component(decoder={"type": "Sequence", "decoders": [
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "lo w"}, "content": "<>"},
        {"type": "Strip", "content": "a", "start": 2, "stop": 0}, {"type": "ByteFallback"}]})
    yield "decode strip", component(decoder={"type": "Strip", "content": "l", "start": 1, "stop": 0})


COMPONENT_TEXTS = ["", "hello world", "  hello   world  ", "abcabc aab aaaa", "the Theory", "é e\u0301 Å Å ﬁ", "中文 か 團 ß İ", "12 123 1",
                   "a\n\tb\n", "😀→x", "→→a😀😀b", "a", "aa", "aab", "▁a▁▁a", "<0x41><0xE4>", "<0x+5>", "lo wlo lo w", " ", "\u0301a", "AbC dE"]


def words_of(spec, text):
    t = Tokenizer.from_str(json.dumps(component(pre_tokenizer=spec)))
    # encode drops an empty text before it is cut.
    return [w for w, _ in t.pre_tokenizer.pre_tokenize_str(text)] if text else []


def dump(path, rows):
    with open(os.path.join(OUT, path), "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    texts = TEXTS + noise(60) + LATER
    for name, spec, config in families():
        os.makedirs(os.path.join(OUT, name), exist_ok=True)
        dump(f"{name}/tokenizer.json", [spec])
        dump(f"{name}/tokenizer_config.json", [config])
        t = Tokenizer.from_str(json.dumps(spec))
        for token in spec["added_tokens"]:
            assert t.token_to_id(token["content"]) == token["id"], token
        bos = []
        if config.get("add_bos_token") and name == "deepseek_v3":
            bos = [t.token_to_id(config["bos_token"]["content"])]
        rows = []
        for text in texts:
            ids = bos + t.encode(text).ids
            rows.append(dict(text=text, ids=ids, plain=t.encode(text, add_special_tokens=False).ids,
                             decoded=t.decode(ids, skip_special_tokens=False), skipped=t.decode(ids, skip_special_tokens=True)))
        dump(f"{name}/cases.jsonl", rows)
    rows = []
    for name, spec in components():
        t = Tokenizer.from_str(json.dumps(spec))
        cases = [[x, ids, t.decode(ids, skip_special_tokens=False) if ids else ""] for x in COMPONENT_TEXTS for ids in [t.encode(x).ids]]
        rows.append(dict(name=name, tokenizer=spec, cases=cases))
    dump("components.jsonl", rows)
    dump("words.jsonl", [dict(name=name, pre_tokenizer=spec, cases=[[x, words_of(spec, x)] for x in texts[8:130:2] + LATER])
                         for name, spec in WORDS.items()])


if __name__ == "__main__":
    main()
