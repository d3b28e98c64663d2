// Reading of tokenizer.json and tokenizer_config.json.
#include <algorithm>
#include <set>
#include <utility>

#include "common/files/json_file.h"
#include "common/files/read_file.h"
#include "router/text/hf_tokenizer.h"
#include "router/text/post_processor.h"

namespace choir::text {
namespace {

constexpr char kFile[] = "tokenizer.json: ";
constexpr size_t kMergesMax = 1 << 23;
constexpr size_t kAddedTokensMax = 1 << 18;
constexpr size_t kAddedTokenBytesMax = 1024;

StatusOr<std::pair<std::string, std::string>> ReadMerge(const JsonField& field) {
  if (field.value().is_string()) {
    const auto& text = field.value().get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return field.Error("must be two tokens with one space between them");
    }
    return std::pair(text.substr(0, space), text.substr(space + 1));
  }
  CHOIR_RETURN_IF_ERROR(field.RequireArray());
  if (field.size() != 2) return field.Error("must have two tokens");
  CHOIR_ASSIGN_OR_RETURN(std::string left, field.At(0).String());
  CHOIR_ASSIGN_OR_RETURN(std::string right, field.At(1).String());
  return std::pair(std::move(left), std::move(right));
}

StatusOr<std::string> StringOr(const JsonField& field, const std::string& fallback) {
  if (!field.present()) return fallback;
  return field.String();
}

Status ReadVocabAndMerges(const JsonField& model, BpeConfig* config) {
  const JsonField vocab = model["vocab"];
  CHOIR_RETURN_IF_ERROR(vocab.RequireObject());
  for (const auto& [token, id] : vocab.value().items()) {
    CHOIR_ASSIGN_OR_RETURN(
        const int64_t value,
        JsonField(&id, vocab.path() + "['" + token + "']").Integer({}, 0, kTokenIdMax));
    config->vocab.emplace_back(token, static_cast<int32_t>(value));
  }
  const JsonField merges = model["merges"];
  CHOIR_RETURN_IF_ERROR(merges.RequireArray());
  if (merges.size() > kMergesMax) return merges.Error("too long");
  size_t first = 0;
  // The old form may begin with a line of merges.txt.
  if (merges.size() > 0 && merges.At(0).value().is_string() &&
      merges.At(0).value().get_ref<const std::string&>().starts_with("#version")) {
    first = 1;
  }
  config->merges.reserve(merges.size());
  for (size_t i = first; i < merges.size(); ++i) {
    CHOIR_ASSIGN_OR_RETURN(auto merge, ReadMerge(merges.At(i)));
    config->merges.push_back(std::move(merge));
  }
  return {};
}

StatusOr<Bpe> ReadModel(const JsonField& model, PreTokenizer* pre_tokenizer) {
  CHOIR_RETURN_IF_ERROR(model.RequireObject());
  if (model["type"].present()) {
    CHOIR_ASSIGN_OR_RETURN(const std::string type, model["type"].String());
    if (type != "BPE") return model["type"].Error("only BPE models are supported");
  }
  if (model["dropout"].present() && model["dropout"].value() != 0.0) {
    return model["dropout"].Error("dropout makes tokens random and is not supported");
  }
  BpeConfig config;
  if (model["unk_token"].present()) {
    CHOIR_ASSIGN_OR_RETURN(config.unk_token, model["unk_token"].String());
  }
  CHOIR_ASSIGN_OR_RETURN(config.continuing_subword_prefix,
                         StringOr(model["continuing_subword_prefix"], ""));
  CHOIR_ASSIGN_OR_RETURN(config.end_of_word_suffix, StringOr(model["end_of_word_suffix"], ""));
  CHOIR_ASSIGN_OR_RETURN(config.fuse_unk, model["fuse_unk"].Bool(false));
  CHOIR_ASSIGN_OR_RETURN(config.byte_fallback, model["byte_fallback"].Bool(false));
  CHOIR_ASSIGN_OR_RETURN(config.ignore_merges, model["ignore_merges"].Bool(false));
  CHOIR_RETURN_IF_ERROR(ReadVocabAndMerges(model, &config));
  config.raw_bytes = pre_tokenizer->ends_with_byte_level() && !config.byte_fallback &&
                     config.continuing_subword_prefix.empty() && config.end_of_word_suffix.empty();
  if (config.raw_bytes) pre_tokenizer->LeaveBytesToModel();
  auto bpe = Bpe::Make(std::move(config));
  if (!bpe.ok()) return Annotate(bpe.status(), "tokenizer.json: model");
  return bpe;
}

StatusOr<AddedToken> ReadAddedToken(const JsonField& field) {
  AddedToken token;
  CHOIR_RETURN_IF_ERROR(field.RequireObject());
  CHOIR_ASSIGN_OR_RETURN(token.content, field["content"].String());
  if (token.content.size() > kAddedTokenBytesMax) {
    return field.Error(fmt::format("content is longer than {} bytes", kAddedTokenBytesMax));
  }
  CHOIR_ASSIGN_OR_RETURN(const int64_t id, field["id"].Integer({}, 0, kTokenIdMax));
  token.id = static_cast<int32_t>(id);
  CHOIR_ASSIGN_OR_RETURN(token.single_word, field["single_word"].Bool({}));
  CHOIR_ASSIGN_OR_RETURN(token.lstrip, field["lstrip"].Bool({}));
  CHOIR_ASSIGN_OR_RETURN(token.rstrip, field["rstrip"].Bool({}));
  CHOIR_ASSIGN_OR_RETURN(token.normalized, field["normalized"].Bool({}));
  CHOIR_ASSIGN_OR_RETURN(token.special, field["special"].Bool({}));
  return token;
}

// A special token of tokenizer_config.json: null, a string, or an object with `content`.
StatusOr<std::string> ReadSpecialName(const JsonField& field) {
  if (!field.present()) return std::string();
  if (field.value().is_object()) return field["content"].String();
  return field.String();
}

// tokenizer.json is missing, but another form is there.
Status OtherForm(const std::string& model_dir, const Status& missing) {
  for (const char* file : {"tokenizer.model", "tiktoken.model", "tekken.json", "vocab.json"}) {
    if (!IsThere(model_dir + "/" + file)) continue;
    return NotFound(
        "{}: has {}, but no tokenizer.json, which is the form that is read; make one with "
        "transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        model_dir, file);
  }
  return missing;
}

// Of a large published vocabulary: its tokens, and three values a merge.
constexpr JsonLimits kTokenizerLimits = {.values_max = 8'000'000};

Status WithRemedy(const Status& status) {
  return Status(
      status.code(),
      MessageOf(status) + "; take the file as the model's publisher has it, or another model");
}

}  // namespace

StatusOr<std::unique_ptr<HfTokenizer>> HfTokenizer::FromJson(const nlohmann::json& tokenizer,
                                                             const nlohmann::json& config) {
  const JsonField root(&tokenizer, kFile);
  CHOIR_RETURN_IF_ERROR(root.RequireObject());
  if (root["version"].present() && root["version"].value() != "1.0") {
    return root["version"].Error("only version 1.0 is known");
  }
  CHOIR_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::Read(root["pre_tokenizer"]));
  CHOIR_ASSIGN_OR_RETURN(Bpe bpe, ReadModel(root["model"], &pre_tokenizer));
  std::unique_ptr<HfTokenizer> made(new HfTokenizer(std::move(bpe)));
  made->pre_tokenizer_ = std::move(pre_tokenizer);
  CHOIR_ASSIGN_OR_RETURN(made->normalizer_, Normalizer::Read(root["normalizer"]));
  CHOIR_ASSIGN_OR_RETURN(made->decoder_, Decoder::Read(root["decoder"]));
  CHOIR_RETURN_IF_ERROR(made->ReadAddedTokens(tokenizer));
  CHOIR_ASSIGN_OR_RETURN(PostProcessor post,
                         PostProcessor::Read(root["post_processor"], made->vocab_size_));
  made->before_ = std::move(post.before);
  made->behind_ = std::move(post.behind);
  made->has_template_ = post.adds_tokens;
  CHOIR_RETURN_IF_ERROR(made->ReadConfig(config));
  return made;
}

Status HfTokenizer::ReadAddedTokens(const nlohmann::json& tokenizer) {
  vocab_size_ = bpe_.id_end();
  const JsonField list = JsonField(&tokenizer, kFile)["added_tokens"];
  std::vector<AddedToken> tokens;
  std::set<int32_t> ids;
  std::set<std::string> contents;
  if (list.present()) CHOIR_RETURN_IF_ERROR(list.RequireArray());
  const size_t count = list.present() ? list.size() : 0;
  if (count > kAddedTokensMax) return list.Error("too long");
  for (size_t i = 0; i < count; ++i) {
    CHOIR_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(list.At(i)));
    if (token.content.empty()) continue;  // as the library
    const auto in_model = bpe_.Id(token.content);
    const auto taken = bpe_.Token(token.id);
    if (in_model && *in_model != token.id) {
      return list.At(i)["id"].Error(
          fmt::format("'{}' has id {} in model.vocab", token.content, *in_model));
    }
    if (!in_model && taken) {
      return list.At(i)["id"].Error(
          fmt::format("'{}' takes the id of '{}' in model.vocab", token.content, *taken));
    }
    if (!ids.insert(token.id).second || !contents.insert(token.content).second) {
      return list.At(i).Error(
          fmt::format("'{}' or its id {} is there twice", token.content, token.id));
    }
    vocab_size_ = std::max(vocab_size_, token.id + 1);
    tokens.push_back(std::move(token));
  }
  if (vocab_size_ == 0) return list.Error("neither model.vocab nor added_tokens has a token");
  RegexScratch scratch;
  added_ = AddedTokens::Make(std::move(tokens), [&](const std::string& content) {
    std::string text = content;
    bool dropped_front = false;
    scratch.StartText(text.size());
    return normalizer_.Apply(&text, &dropped_front, &scratch) ? text : content;
  });
  return {};
}

Status HfTokenizer::ReadConfig(const nlohmann::json& config) {
  if (config.is_null()) return {};
  const JsonField root(&config, "tokenizer_config.json: ");
  CHOIR_RETURN_IF_ERROR(root.RequireObject());
  CHOIR_ASSIGN_OR_RETURN(bos_token_, ReadSpecialName(root["bos_token"]));
  CHOIR_ASSIGN_OR_RETURN(eos_token_, ReadSpecialName(root["eos_token"]));
  if (!bos_token_.empty()) bos_id_ = TokenId(bos_token_);
  if (!eos_token_.empty()) eos_id_ = TokenId(eos_token_);
  CHOIR_ASSIGN_OR_RETURN(const bool add_bos, root["add_bos_token"].Bool(false));
  CHOIR_ASSIGN_OR_RETURN(const bool add_eos, root["add_eos_token"].Bool(false));
  // A post-processor that adds tokens has the last word; these switches speak where there is none.
  if (has_template_) return {};
  if (add_bos) {
    if (!bos_id_) return root["bos_token"].Error("add_bos_token needs a token of the vocabulary");
    before_.push_back(*bos_id_);
  }
  if (add_eos) {
    if (!eos_id_) return root["eos_token"].Error("add_eos_token needs a token of the vocabulary");
    behind_.push_back(*eos_id_);
  }
  return {};
}

}  // namespace choir::text

namespace choir {

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  CHOIR_RETURN_IF_ERROR(text::RequireModelDirectory(model_dir));
  const std::string path = model_dir + "/tokenizer.json";
  const auto tokenizer = ReadJsonObject(path, text::kTokenizerLimits);
  if (!IsThere(path)) return text::OtherForm(model_dir, tokenizer.status());
  CHOIR_RETURN_IF_ERROR(tokenizer.status());
  CHOIR_ASSIGN_OR_RETURN(const nlohmann::json config,
                         ReadJsonObjectIfThere(model_dir + "/tokenizer_config.json"));
  auto made = text::HfTokenizer::FromJson(*tokenizer, config);
  if (made.ok()) return std::unique_ptr<Tokenizer>(*std::move(made));
  // Its message begins with the file's name.
  return text::WithRemedy(InvalidArgument("{}/{}", model_dir, MessageOf(made.status())));
}

}  // namespace choir
