"""Broken weight files and indexes."""
import json
import struct

from .model import Case, odd_kinds

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00003.safetensors"
Q = "model.layers.0.self_attn.q_proj.weight"
HUGE = 2**62
LOADS = ("logits",)  # what looks at the weights themselves
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"


def bytes_case(name, change, field, file=FILE):
    return Case(f"weights_{name}", lambda m: m.write(file, change((m / file).read_bytes())), file, field)


def length_case(name, length):
    return bytes_case(f"header_length_{name}", lambda b: struct.pack("<Q", length) + b[8:], "header")


def raw_header(name, text, field):
    return Case(f"header_{name}", lambda m: m.write_header(text, m.header()[1]), FILE, field)


def entry(name, key, value, field=Q, commands=("logits", "info")):
    def damage(m):
        def change(header):
            if value is None:
                del header[Q][key]
            else:
                header[Q][key] = value
        m.edit_header(change)
    return Case(f"tensor_{name}", damage, FILE, field, commands=commands)


def shift(key, by):
    """The offsets of one tensor moved without moving its bytes."""
    def damage(m):
        def change(header):
            begin, end = header[key]["data_offsets"]
            header[key]["data_offsets"] = [begin + by, end + by]
        m.edit_header(change)
    return damage


def header_case(name, change, field, file=FILE):
    return Case(f"weights_{name}", lambda m: m.edit_header(change), file, field)


def rename(header):
    header["other"] = header.pop(Q)


def transpose(header):
    header[Q]["shape"].reverse()


def same_bytes_twice(header):
    header["model.extra.weight"] = dict(header[Q])


def append(name, shape):
    """A tensor that the config does not ask for."""
    def damage(m):
        header, data = m.header()
        size = 4
        for d in shape:
            size *= d
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + size]}
        m.write_header(header, data + b"\0" * size)
    return damage


def poison(tensor, value, base_offset=0):
    """One element of a tensor becomes NaN or infinite."""
    def damage(m):
        header, data = m.header()
        begin = header[tensor]["data_offsets"][0] + base_offset
        m.write_header(header, data[:begin] + struct.pack("<f", value) + data[begin + 4:])
    return damage


def index_case(name, value, field=Q, file=INDEX):
    def damage(m):
        m.edit(INDEX, lambda index: index["weight_map"].__setitem__(Q, value))
    return Case(f"index_{name}", damage, file, field, "llama_biased")


def lie(m):
    index = json.loads((m / INDEX).read_text())
    others = sorted(set(index["weight_map"].values()) - {index["weight_map"][Q]})
    m.edit(INDEX, lambda index: index["weight_map"].__setitem__(Q, others[0]))


def sharded(name, damage, file, field):
    return Case(f"shards_{name}", damage, file, field, "llama_biased")


def pickle_only(name):
    def damage(m):
        m.remove(FILE)
        m.write(name, b"\x80\x02}q\x00.")
    return damage


WEIGHTS = [
    bytes_case("empty", lambda b: b"", "header length"),
    bytes_case("seven_bytes", lambda b: b[:7], "header length"),
    bytes_case("cut_in_header", lambda b: b[:300], "header length"),
    bytes_case("cut_in_data", lambda b: b[:len(b) // 2], "data_offsets"),
    bytes_case("cut_by_one", lambda b: b[:-1], "data_offsets"),
    bytes_case("longer_by_one", lambda b: b + b"\0", "size"),
    bytes_case("zeros", lambda b: b"\0" * 4096, "header"),
    bytes_case("html", lambda b: b"<!DOCTYPE html><html>Access denied</html>" * 10, "header length"),
    bytes_case("git_lfs_pointer", lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
               "header length"),
    length_case("zero", 0), length_case("one", 1), length_case("of_the_file", 451008),
    length_case("beyond", 451001), length_case("negative", 2**64 - 1), length_case("top_bit", 2**63),
    length_case("huge", 2**40), length_case("over_the_limit", 100_000_001),
    raw_header("text", b"not json at all", "JSON"), raw_header("list", b"[]", "object"),
    raw_header("number", b"7", "object"), raw_header("no_tensors", b"{}", "size"),
    raw_header("nested", b"[" * 1_000_000, "nested"),
    raw_header("nested_objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested"),
    raw_header("same_key_twice", b'{"a":{"dtype":"F32"},"a":{"dtype":"F32"}}', "twice"),
    raw_header("same_field_twice", b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "twice"),
    raw_header("not_utf8", b'{"\xc3\x28":1}', "JSON"), raw_header("nan", b'{"a":{"shape":[NaN]}}', "JSON"),
    raw_header("overflow", b'{"a":1e999}', "JSON"), raw_header("entry_is_a_number", b'{"a":1}', "tensor a"),
    raw_header("many_values", b'{"a":[0' + b",0" * 3_000_000 + b"]}", "values"),
    raw_header("long_name", b'{"' + b"a" * 100_000 + b'":{}}', "tensor name"),
    entry("without_dtype", "dtype", None), entry("dtype_number", "dtype", 7), entry("dtype_unknown", "dtype", "F33"),
    entry("dtype_of_other_size", "dtype", "BF16"), entry("dtype_integer", "dtype", "I32", commands=LOADS),
    entry("dtype_unsigned", "dtype", "U32", commands=LOADS), entry("dtype_long_text", "dtype", "F" * 10_000),
    entry("without_shape", "shape", None), entry("shape_text", "shape", "60x42"),
    entry("shape_negative", "shape", [-1, 42]), entry("shape_fraction", "shape", [1.5, 42]),
    entry("shape_overflow", "shape", [HUGE, HUGE]), entry("shape_wraps_to_zero", "shape", [HUGE, 4]),
    entry("shape_huge_and_zero", "shape", [2**63, 0]), entry("shape_of_nine", "shape", [1] * 9),
    entry("shape_scalar", "shape", []), entry("shape_beyond_64_bits", "shape", [2**64, 1]),
    entry("without_offsets", "data_offsets", None), entry("offsets_one", "data_offsets", [0]),
    entry("offsets_three", "data_offsets", [0, 4, 8]), entry("offsets_reversed", "data_offsets", [8, 4]),
    entry("offsets_negative", "data_offsets", [-4, 0]), entry("offsets_text", "data_offsets", ["0", "4"]),
    entry("offsets_fraction", "data_offsets", [0.0, 4.0]), entry("offsets_beyond", "data_offsets", [0, HUGE]),
    entry("offsets_wrap", "data_offsets", [2**64 - 4, 2**64 - 1]),
    Case("tensors_overlap", shift(Q, -4), FILE, "overlap"), Case("tensors_gap", shift(Q, 4), FILE, "data_offsets"),
    header_case("same_bytes_twice", same_bytes_twice, "overlap"), header_case("tensor_renamed", rename, Q, ""),
    header_case("tensor_transposed", transpose, Q),
    Case("extra_layer", append("model.layers.7.input_layernorm.weight", [42]), FILE, "model.layers.7", commands=LOADS),
    Case("extra_expert", append("model.layers.1.mlp.experts.10.up_proj.weight", [18, 42]), FILE, "experts.10", commands=LOADS),
    Case("extra_bias", append("model.layers.0.self_attn.q_proj.bias", [60]), FILE, "q_proj.bias", commands=LOADS),
    *odd_kinds(FILE, ("logits", "info")),
    Case("weights_missing", lambda m: m.remove(FILE), FILE, "missing"),
    Case("weights_pickle_only", pickle_only("pytorch_model.bin"), "pytorch_model.bin", "pickle"),
    Case("weights_pickle_consolidated", pickle_only("consolidated.00.pth"), "consolidated.00.pth", "pickle"),
    Case("weights_nan", poison(Q, float("nan")), FILE, Q, commands=("logits", "generate")),
    Case("weights_infinite", poison("lm_head.weight", float("inf"), 400), FILE, "lm_head.weight",
         commands=("logits", "generate")),
    Case("weights_expert_nan", poison(EXPERT, float("nan"), 8), FILE, EXPERT, commands=("logits",)),
    index_case("parent", "../model-00001-of-00003.safetensors"), index_case("absolute", "/etc/passwd.safetensors"),
    index_case("folder", "a/b.safetensors"), index_case("dots", ".."), index_case("nothing", ""),
    index_case("nul", "model\0.safetensors"), index_case("number", 7), index_case("null", None),
    index_case("config", "config.json"), index_case("missing_file", "gone.safetensors", "missing", "gone.safetensors"),
    Case("index_lies", lie, ".safetensors", Q, "llama_biased"),
    sharded("index_without_map", lambda m: m.write(INDEX, "{}"), INDEX, "weight_map"),
    sharded("index_map_list", lambda m: m.write(INDEX, '{"weight_map": []}'), INDEX, "weight_map"),
    sharded("index_map_empty", lambda m: m.write(INDEX, '{"weight_map": {}}'), INDEX, "weight_map"),
    sharded("index_cut", lambda m: m.write(INDEX, '{"weight_map": {'), INDEX, "JSON"),
    sharded("index_twice", lambda m: m.write(INDEX, '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}'),
            INDEX, "twice"),
    sharded("one_missing", lambda m: m.remove(SHARD), SHARD, "missing"),
    sharded("one_empty", lambda m: m.write(SHARD, b""), SHARD, "header length"),
    sharded("no_index", lambda m: m.remove(INDEX), FILE, "missing"),
    *odd_kinds(INDEX, ("logits",), "llama_biased")[:4],
    *[Case(f"shard_{kind}", lambda m, kind=kind: m.become(SHARD, kind), SHARD, field, "llama_biased", ("logits",))
      for kind, field in [("directory", "regular file"), ("circle", "circular"), ("fifo", "regular file"),
                          ("zero", "regular file"), ("dangling", "missing")]],
]
