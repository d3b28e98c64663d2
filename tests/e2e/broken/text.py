"""Broken tokenizer.json, tokenizer_config.json and chat templates."""
from .model import Case, broken_json, odd_kinds

FILE = "tokenizer.json"
CONFIG = "tokenizer_config.json"
JINJA = "chat_template.jinja"
LOADS = ("tokenize", "generate", "router")
GONE = object()


def at(value, path):
    for key in path[:-1]:
        value = value[key]
    return value


def tokenizer(name, path, value, field="", commands=("tokenize", "router")):
    """tokenizer.json with the value at `path` replaced (GONE: taken out); the error names its last key."""
    field = str(path[-1]) if field == "" else field

    def damage(m):
        def change(root):
            if value is GONE:
                del at(root, path)[path[-1]]
            else:
                at(root, path)[path[-1]] = value
        m.edit(FILE, change)
    return Case(f"tokenizer_{name}", damage, FILE, field, commands=commands)


def changed(name, change, field, file=FILE, commands=("tokenize", "router")):
    return Case(f"tokenizer_{name}", lambda m: m.edit(file, change), file, field, commands=commands)


def add_token(content, token_id, **more):
    def change(root):
        root["added_tokens"].append({"id": token_id, "content": content, "single_word": False, "lstrip": False,
                                     "rstrip": False, "normalized": False, "special": True} | more)
    return change


def split(name, regex, field="regular expression", commands=("tokenize", "router")):
    return tokenizer(f"regex_{name}", ["pre_tokenizer"], {"type": "Split", "pattern": {"Regex": regex},
                                                          "behavior": "Isolated", "invert": False}, field, commands)


MERGES, VOCAB = ["model", "merges"], ["model", "vocab"]

TEXT = [
    *odd_kinds(FILE, LOADS), *broken_json(FILE, LOADS),
    Case("tokenizer_missing", lambda m: m.remove(FILE), FILE, "file", commands=("tokenize", "router")),
    tokenizer("version_unknown", ["version"], "9.9"), tokenizer("without_model", ["model"], GONE),
    tokenizer("model_list", ["model"], []), tokenizer("model_wordpiece", ["model", "type"], "WordPiece", "BPE"),
    tokenizer("model_type_number", ["model", "type"], 1), tokenizer("dropout", ["model", "dropout"], 0.5),
    tokenizer("without_vocab", VOCAB, GONE), tokenizer("vocab_list", VOCAB, ["a", "b"]),
    tokenizer("vocab_empty", VOCAB, {}), tokenizer("id_negative", [*VOCAB, "zz"], -1),
    tokenizer("id_text", [*VOCAB, "zz"], "5"), tokenizer("id_fraction", [*VOCAB, "zz"], 5.5),
    tokenizer("id_huge", [*VOCAB, "zz"], 2**40), tokenizer("id_beyond_64_bits", [*VOCAB, "zz"], 2**70),
    tokenizer("id_twice", [*VOCAB, "zz"], 20, "vocab"),
    tokenizer("id_far_beyond_the_model", [*VOCAB, "zz"], 4_000_000, "vocabulary", ("generate", "router")),
    tokenizer("id_just_beyond_the_model", [*VOCAB, "zz"], 302, "vocabulary", ("generate", "router")),
    changed("token_of_merge_gone", lambda root: root["model"]["vocab"].pop("\u0120the"), "merges"),
    changed("part_of_merge_gone", lambda root: root["model"]["vocab"].pop("t"), "merges"),
    tokenizer("without_merges", MERGES, GONE), tokenizer("merges_object", MERGES, {}),
    tokenizer("merges_text", MERGES, "t h"), tokenizer("merge_of_one", [*MERGES, 0], "th", "merges"),
    tokenizer("merge_of_three", [*MERGES, 0], ["t", "h", "e"], "merges"),
    tokenizer("merge_three_words", [*MERGES, 0], "t h e", "merges"),
    tokenizer("merge_number", [*MERGES, 0], 7, "merges"), tokenizer("merge_numbers", [*MERGES, 0], [1, 2], "merges"),
    tokenizer("merge_unknown", [*MERGES, 0], ["qq", "zz"], "merges"),
    tokenizer("merge_of_nothing", [*MERGES, 0], ["", "t"], "merges"),
    tokenizer("unknown_token_unknown", ["model", "unk_token"], "<nope>"),
    tokenizer("unknown_token_number", ["model", "unk_token"], 3),
    tokenizer("fuse_text", ["model", "fuse_unk"], "yes"), tokenizer("fallback_text", ["model", "byte_fallback"], "yes"),
    tokenizer("added_object", ["added_tokens"], {}), tokenizer("added_text", ["added_tokens", 0], "<s>"),
    tokenizer("added_without_content", ["added_tokens", 0, "content"], GONE),
    tokenizer("added_without_id", ["added_tokens", 0, "id"], GONE),
    tokenizer("added_id_negative", ["added_tokens", 0, "id"], -5),
    tokenizer("added_id_huge", ["added_tokens", 0, "id"], 2**31),
    tokenizer("added_flag_text", ["added_tokens", 0, "special"], "yes"),
    tokenizer("added_id_of_other", ["added_tokens", 0, "id"], 30),
    changed("added_twice", add_token("<s>", 0), "added_tokens"),
    changed("added_takes_id", add_token("<new>", 20), "added_tokens"),
    changed("added_beyond_the_model", add_token("<new>", 100_000), "vocabulary", commands=("generate", "router")),
    changed("added_long", add_token("x" * 100_000, 302), "added_tokens"),
    tokenizer("pre_unknown", ["pre_tokenizer"], {"type": "Magic"}, "pre_tokenizer"),
    tokenizer("pre_text", ["pre_tokenizer"], "ByteLevel"), tokenizer("pre_without_type", ["pre_tokenizer"], {}),
    tokenizer("pre_nested", ["pre_tokenizer"], None, "pre_tokenizer"),
    tokenizer("behavior_unknown", ["pre_tokenizer", "pretokenizers", 0, "behavior"], "Shredded"),
    tokenizer("pattern_unknown", ["pre_tokenizer", "pretokenizers", 0, "pattern"], {"Glob": "*"}),
    tokenizer("sequence_text", ["pre_tokenizer", "pretokenizers"], "all"),
    split("open_bracket", "(abc"), split("open_class", "[a-"), split("nothing_to_repeat", "*a"),
    split("behind_of_any_length", "(?<=a+)b"), split("unknown_property", "\\p{Nonsense}"),
    split("big_counts", "((a{1,60000}){1,60000}){1,60000}"), split("nested_counts", "(" * 5000 + "a" + ")" * 5000),
    split("one_megabyte", "a" * 1_000_000), split("number", 7, "Regex"), split("reference", "\\9999(a)"),
    split("recursion", "(?R)*(?R)", None, ("tokenize_aaa",)),
    split("backtracking", "(a+)+$", None, ("tokenize_aaa",)), split("backtracking_or", "(a|aa)+$", None, ("tokenize_aaa",)),
    split("backtracking_deep", "(.*)*(.*)*(.*)*b", None, ("tokenize_aaa",)),
    tokenizer("normalizer_unknown", ["normalizer"], {"type": "Magic"}), tokenizer("normalizer_text", ["normalizer"], "NFC"),
    tokenizer("normalizer_regex", ["normalizer"], {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
    tokenizer("normalizer_without_content", ["normalizer"], {"type": "Replace", "pattern": {"String": "a"}}),
    tokenizer("normalizer_sequence", ["normalizer"], {"type": "Sequence", "normalizers": [{"type": "Sequence"}]}),
    tokenizer("decoder_unknown", ["decoder"], {"type": "Magic"}), tokenizer("decoder_list", ["decoder"], []),
    tokenizer("decoder_sequence", ["decoder"], {"type": "Sequence", "decoders": {}}),
    tokenizer("post_unknown", ["post_processor"], {"type": "Magic"}),
    tokenizer("post_template_empty", ["post_processor"], {"type": "TemplateProcessing"}),
    tokenizer("post_token_unknown", ["post_processor"],
              {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}},
                                                        {"Sequence": {"id": "A", "type_id": 0}}],
               "pair": [], "special_tokens": {}}),
    tokenizer("post_id_beyond", ["post_processor"],
              {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}},
                                                        {"Sequence": {"id": "A", "type_id": 0}}],
               "pair": [], "special_tokens": {"<bos>": {"id": "<bos>", "ids": [999999], "tokens": ["<bos>"]}}}),
    *[Case(c.name, c.damage, c.file, c.field, commands=("tokenize", "template", "router"))
      for c in odd_kinds(CONFIG, ()) if "dangling" not in c.name],
    *broken_json(CONFIG, ("tokenize", "template", "router")),
    changed("config_bos_number", lambda root: root.update(bos_token=7), "bos_token", CONFIG),
    changed("config_bos_unknown", lambda root: root.update(bos_token="<nope>", add_bos_token=True), "bos_token", CONFIG),
    changed("config_add_bos_text", lambda root: root.update(add_bos_token="yes"), "add_bos_token", CONFIG),
]


def nested(m):
    def change(root):
        value = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        for _ in range(20):
            value = {"type": "Sequence", "pretokenizers": [value, value]}
            if len(str(value)) > 4_000_000:
                break
        root["pre_tokenizer"] = value
    m.edit(FILE, change)


TEXT.append(Case("tokenizer_sequences_in_sequences", nested, FILE, "pre_tokenizer", commands=("tokenize", "router")))
TEXT = [case for case in TEXT if case.name != "tokenizer_pre_nested"]


def jinja(name, text, field, loads=True):
    """A chat template that cannot be loaded, or (loads=False) whose rendering has to be stopped: then the model's
    directory is not at fault for whoever asks, so nothing says what to do to it."""
    if loads:
        return Case(f"template_{name}", lambda m: m.write(JINJA, text), JINJA, field, commands=("template", "router"))
    return Case(f"template_{name}", lambda m: m.write(JINJA, text), "choir template", field, commands=("template",),
                remedy="")


def in_config(name, value, field="chat_template"):
    def damage(m):
        m.remove(JINJA)
        m.edit(CONFIG, lambda root: root.update(chat_template=value))
    return Case(f"template_in_config_{name}", damage, CONFIG, field, commands=("template", "router"))


DOUBLING = "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"

TEMPLATE = [
    *[Case(c.name, c.damage, c.file, c.field, commands=("template", "router"))
      for c in odd_kinds(JINJA, ()) if "dangling" not in c.name and "unreadable" not in c.name],
    jinja("unclosed_if", "a\n{% if x %}\nb", "line 2"), jinja("unclosed_for", "{% for m in messages %}x", "endfor"),
    jinja("unclosed_comment", "{# x", "comment"), jinja("unclosed_expression", "{{ x", "end of template"),
    jinja("unclosed_string", "{{ 'x }}", "string"), jinja("unclosed_raw", "{% raw %}x", "raw"),
    jinja("end_without_begin", "{% endif %}", "endif"), jinja("unknown_tag", "{% launch x %}", "launch"),
    jinja("include", "{% include '/etc/passwd' %}", "include"), jinja("import", "{% import 'os' as os %}", "import"),
    jinja("extends", "{% extends 'x' %}", "extends"), jinja("not_utf8", b"\xff\xfe{{ x }}", "UTF-8"),
    jinja("nested_brackets", "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}", "nest"),
    jinja("nested_blocks", "{% if x %}" * 100_000, "nest"), jinja("nested_minus", "{{ " + "-" * 100_000 + "1 }}", "nest"),
    jinja("too_big", "x" * (17 << 20), "bytes"), jinja("unknown_filter", "{{ messages | shred }}", "shred"),
    jinja("loops", "{% for a in range(9999) %}" * 3 + "{% endfor %}" * 3, "steps", False),
    jinja("doubling", DOUBLING, "more than", False), jinja("huge_times", "{{ 'x' * 99999999999 }}", "more than", False),
    jinja("huge_list", "{{ [1] * 9999999999 }}", "more than", False),
    jinja("huge_range", "{{ range(99999999999) | list }}", "Range too big", False),
    jinja("huge_range_sum", "{% for a in range(100000) %}{{ range(100000) | sum }}{% endfor %}", "steps", False),
    jinja("huge_center", "{{ 'x'.center(99999999999) }}", "more than", False),
    jinja("huge_format", "{{ '%999999999d' % 1 }}", "too large", False),
    jinja("huge_power", "{{ 9 ** 9 ** 9 }}", "64 bits", False), jinja("huge_replace",
                                                             "{{ ('x' * 99999).replace('x', 'y' * 99999) }}",
                                                             "more than", False),
    jinja("recursive_macro", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nest", False),
    jinja("recursive_loop", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "nest", False),
    jinja("exponential_macro", "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
          "steps", False),
    jinja("much_memory", "{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = ns.x + "
                         "['y' * 1000000] %}{% endfor %}", "memory", False),
    jinja("python_inside", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe", False),
    jinja("unknown_function", "{{ open('/etc/passwd') }}", "open", False),
    jinja("raises", "{{ raise_exception('no way') }}", "no way", False),
    in_config("number", 7), in_config("object", {"a": 1}), in_config("list_of_texts", ["a"]),
    in_config("without_name", [{"template": "x"}]), in_config("template_number", [{"name": "default", "template": 1}]),
    in_config("broken", "{% if %}", "line 1"),
]
