"""Broken config.json and generation_config.json."""
from .model import Case, broken_json, odd_kinds

FILE = "config.json"
GENERATION = "generation_config.json"
GONE = object()


def config(name, field, base="tiny_glm4_moe", **keys):
    """config.json with these keys set (GONE: taken out)."""
    def damage(m):
        def change(values):
            for key, value in keys.items():
                values[key] = value
                if value is GONE:
                    del values[key]
        m.edit(FILE, change)
    return Case(f"config_{name}", damage, FILE, field, base)


def mismatch(name, field, base="tiny_glm4_moe", **keys):
    """A well-formed config that the weights contradict: the error names the tensor."""
    case = config(name, field, base, **keys)
    return Case(case.name, case.damage, "", field, base, ("logits",))


def raw(name, key, text, field=None):
    """A value that json.dumps would not write."""
    def damage(m):
        m.edit(FILE, lambda values: values.__setitem__(key, "@@"))
        m.write(FILE, (m / FILE).read_text().replace('"@@"', text))
    return Case(f"config_{name}", damage, FILE, field or key)


def generation(name, field, **keys):
    return Case(f"generation_{name}", lambda m: m.edit(GENERATION, lambda values: values.update(keys)), GENERATION,
                field, commands=("generate", "router"))


def yarn(name, field, **keys):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64} | keys
    return config("yarn_" + name, field, rope_scaling={k: v for k, v in scaling.items() if v is not GONE})


SIZES = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
         "moe_intermediate_size", "intermediate_size", "max_position_embeddings", "n_routed_experts",
         "num_experts_per_tok"]

CONFIG = [
    *odd_kinds(FILE, ("logits", "info", "generate")), *broken_json(FILE, ("logits", "info", "generate")),
    Case("config_missing", lambda m: m.remove(FILE), FILE, "missing"),
    Case("config_too_big", lambda m: m.write(FILE, '{"a": "' + "x" * (9 << 20) + '"}'), FILE, "size"),
    Case("config_many_values", lambda m: m.write(FILE, '{"a": [0' + ",0" * 3_900_000 + "]}"), FILE, "values"),
    *[config(f"{key}_zero", key, **{key: 0}) for key in SIZES],
    *[config(f"{key}_negative", key, **{key: -1}) for key in SIZES],
    *[config(f"{key}_text", key, **{key: "8"}) for key in SIZES],
    *[config(f"{key}_huge", key, **{key: 2**40}) for key in SIZES],
    config("hidden_size_beyond_64_bits", "hidden_size", hidden_size=2**64),
    config("hidden_size_fraction", "hidden_size", hidden_size=42.5),
    config("hidden_size_true", "hidden_size", hidden_size=True),
    config("hidden_size_list", "hidden_size", hidden_size=[42]),
    config("hidden_size_object", "hidden_size", hidden_size={"a": 42}),
    config("hidden_size_missing", "hidden_size", hidden_size=GONE),
    config("hidden_size_null", "hidden_size", hidden_size=None),
    config("vocab_size_missing", "vocab_size", vocab_size=GONE),
    config("layers_missing", "num_hidden_layers", num_hidden_layers=GONE),
    config("heads_missing", "num_attention_heads", num_attention_heads=GONE),
    mismatch("vocab_size_of_other", "embed_tokens", vocab_size=303),
    mismatch("hidden_size_of_other", "shape", hidden_size=43),
    mismatch("fewer_layers", "model.layers.2", "tiny_llama", num_hidden_layers=2),
    Case("config_more_layers", config("", "", num_hidden_layers=4).damage, "", "model.layers.3"),
    Case("config_layers_at_the_limit", config("", "", num_hidden_layers=4096, n_routed_experts=4095).damage, "",
         "model.layers."),
    Case("config_experts_at_the_limit", config("", "", n_routed_experts=4095).damage, "", "mlp."),
    mismatch("fewer_experts", "mlp.", n_routed_experts=5, n_group=1, topk_group=1), mismatch("head_dim_of_other", "shape", head_dim=24),
    config("model_type_missing", "model_type", model_type=GONE),
    config("model_type_unknown", "model_type", model_type="gpt_neo_x_9000"),
    config("model_type_number", "model_type", model_type=3), config("model_type_list", "model_type", model_type=["a"]),
    config("model_type_long", "model_type", model_type="x" * 100_000),
    config("model_type_escape", "model_type", model_type="\u001b[31m\nbad"),
    config("architectures_of_other", "architectures", architectures=["BertModel"]),
    config("heads_not_divided", "num_key_value_heads", num_key_value_heads=2),
    config("head_dim_odd", "partial_rotary_factor", head_dim=21, partial_rotary_factor=1.0),
    config("hidden_not_divided", "num_attention_heads", "tiny_llama", head_dim=GONE, num_attention_heads=7),
    config("eps_negative", "rms_norm_eps", rms_norm_eps=-1e-5), config("eps_text", "rms_norm_eps", rms_norm_eps="1e-5"),
    raw("eps_nan", "rms_norm_eps", "NaN", "JSON"), raw("theta_infinity", "rope_theta", "Infinity", "JSON"),
    raw("eps_overflow", "rms_norm_eps", "1e999", "JSON"), raw("hidden_huge_float", "hidden_size", "1e300"),
    raw("layers_long_number", "num_hidden_layers", "9" * 5000, "JSON"), raw("layers_negative_huge", "num_hidden_layers", "-1e18"),
    config("theta_zero", "rope_theta", rope_theta=0), config("theta_negative", "rope_theta", rope_theta=-10000.0),
    config("theta_huge", "rope_theta", rope_theta=1e300), config("theta_text", "rope_theta", rope_theta="10000"),
    config("rope_text", "rope_scaling", rope_scaling="yarn"), config("rope_list", "rope_scaling", rope_scaling=[4]),
    config("rope_type_unknown", "rope_type", rope_scaling={"rope_type": "spiral", "factor": 2.0}),
    config("rope_type_number", "rope_type", rope_scaling={"rope_type": 4}),
    config("rope_linear_without_factor", "factor", rope_scaling={"rope_type": "linear"}),
    config("rope_linear_zero", "factor", rope_scaling={"rope_type": "linear", "factor": 0}),
    config("rope_llama3_crossed", "high_freq_factor",
           rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}),
    yarn("factor_negative", "factor", factor=-4.0), yarn("factor_text", "factor", factor="4"),
    yarn("original_zero", "original_max_position_embeddings", original_max_position_embeddings=0),
    yarn("beta_negative", "beta_fast", beta_fast=-1), yarn("attention_zero", "attention_factor", attention_factor=0),
    yarn("mscale_text", "mscale", mscale="1"), yarn("truncate_number", "truncate", truncate=3),
    config("rotary_zero", "partial_rotary_factor", partial_rotary_factor=0.0),
    config("rotary_above_one", "partial_rotary_factor", partial_rotary_factor=1.5),
    config("activation_unknown", "hidden_act", hidden_act="gelu_fancy"), config("activation_number", "hidden_act",
                                                                                hidden_act=1),
    config("more_experts_per_token", "num_experts_per_tok", num_experts_per_tok=11),
    config("groups_not_dividing", "n_group", n_group=3), config("groups_zero", "n_group", n_group=0),
    config("more_groups_kept", "topk_group", topk_group=6), config("too_few_groups", "topk_group", topk_group=1),
    config("dense_beyond_layers", "first_k_dense_replace", first_k_dense_replace=9),
    config("dense_negative", "first_k_dense_replace", first_k_dense_replace=-1),
    config("shared_negative", "n_shared_experts", n_shared_experts=-2),
    config("factor_text", "routed_scaling_factor", routed_scaling_factor="1.5"),
    config("factor_negative", "routed_scaling_factor", routed_scaling_factor=-1.5),
    config("scoring_unknown", "scoring_func", scoring_func="entmax"),
    config("topk_method_unknown", "topk_method", topk_method="random"),
    config("norm_topk_text", "norm_topk_prob", norm_topk_prob="true"), config("tied_text", "tie_word_embeddings",
                                                                             tie_word_embeddings="yes"),
    config("qk_norm_number", "use_qk_norm", use_qk_norm=1), config("bias_text", "attention_bias", attention_bias="no"),
    config("quantized_unknown", "quantization_config", quantization_config={"quant_method": "gptq", "bits": 4}),
    config("quantized_text", "quantization_config", quantization_config="fp8"),
    config("latent_zero", "kv_lora_rank", "deepseek_v3_yarn", kv_lora_rank=0),
    config("latent_rope_odd", "qk_rope_head_dim", "deepseek_v3_yarn", qk_rope_head_dim=7),
    config("latent_nope_negative", "qk_nope_head_dim", "deepseek_v3_yarn", qk_nope_head_dim=-4),
    config("latent_kv_heads", "num_key_value_heads", "deepseek_v3_yarn", num_key_value_heads=1),
    config("moe_frequency", "moe_layer_freq", "deepseek_v3_yarn", moe_layer_freq=2),
    *[Case(c.name, c.damage, c.file, c.field, c.base, ("generate", "router"))
      for c in odd_kinds(GENERATION, ()) if "dangling" not in c.name],
    *broken_json(GENERATION, ("generate", "router")),
    generation("eos_text", "eos_token_id", eos_token_id="</s>"), generation("eos_negative", "eos_token_id",
                                                                           eos_token_id=-1),
    generation("eos_fraction", "eos_token_id", eos_token_id=[1, 1.5]), generation("eos_object", "eos_token_id",
                                                                                 eos_token_id={"a": 1}),
    generation("eos_huge", "eos_token_id", eos_token_id=2**40), generation("temperature_text", "temperature",
                                                                          temperature="hot"),
    generation("temperature_negative", "temperature", temperature=-1), generation("temperature_huge", "temperature",
                                                                                 temperature=1e9),
    generation("top_p_two", "top_p", top_p=2), generation("top_p_list", "top_p", top_p=[0.9]),
    generation("top_k_text", "top_k", top_k="40"), generation("top_k_huge", "top_k", top_k=1e30),
    generation("top_k_fraction", "top_k", top_k=1.5),
]
