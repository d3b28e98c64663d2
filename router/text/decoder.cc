#include "router/text/decoder.h"

#include <utility>

#include "router/text/decode_steps.h"

namespace choir::text {
namespace {

using Texts = DecodeTexts;

constexpr int kDepthMax = 16;
constexpr size_t kStepsMax = 64;

}  // namespace

std::optional<uint8_t> FallbackByte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    // Rust reads "+5" as a number too.
    if (digit < 0 && !(c == '+' && &c == &token[3])) return std::nullopt;
    value = digit < 0 ? 0 : value * 16 + digit;
  }
  return static_cast<uint8_t>(value);
}

std::string ByteLevelBytes(std::string_view token) {
  std::string bytes;
  return unicode::AppendCharBytes(token, &bytes) ? bytes : std::string(token);
}

std::string DecodeStream::RunFrom(size_t step, Texts texts) {
  for (; step < steps_.size(); ++step) {
    Texts next;
    for (const std::string& text : texts) steps_[step]->Push(text, &next);
    texts = std::move(next);
  }
  std::string all;
  for (const std::string& text : texts) all += text;
  return all;
}

std::string DecodeStream::Push(std::string_view token) { return RunFrom(0, {std::string(token)}); }

std::string DecodeStream::Finish() {
  std::string all;
  for (size_t step = 0; step < steps_.size(); ++step) {
    Texts rest;
    steps_[step]->Finish(&rest);
    all += RunFrom(step + 1, std::move(rest));
  }
  return all;
}

DecodeStream Decoder::Start() const {
  DecodeStream stream;
  for (const Factory& factory : steps_) stream.steps_.push_back(factory.make());
  return stream;
}

std::string Decoder::TokenBytes(std::string_view token) const {
  std::string bytes(token);
  for (const Factory& factory : steps_) {
    if (factory.bytes) bytes = factory.bytes(std::move(bytes));
  }
  return bytes;
}

StatusOr<Decoder> Decoder::Read(const JsonField& field) {
  Decoder decoder;
  if (field.present()) {
    CHOIR_RETURN_IF_ERROR(decoder.ReadInto(field, 0));
  } else {
    decoder.steps_.push_back({[] { return std::make_unique<SpaceJoinStep>(); }, {}});
  }
  return decoder;
}

Status Decoder::ReadInto(const JsonField& field, int depth) {
  CHOIR_RETURN_IF_ERROR(field.RequireObject());
  if (depth > kDepthMax) return field.Error("nested too deeply");
  CHOIR_ASSIGN_OR_RETURN(const std::string type, field["type"].String());
  if (steps_.size() >= kStepsMax) return field.Error("more than 64 decoders");
  if (type != "Sequence") return ReadOne(field, type);
  const JsonField parts = field["decoders"];
  CHOIR_RETURN_IF_ERROR(parts.RequireArray());
  for (size_t i = 0; i < parts.size(); ++i) CHOIR_RETURN_IF_ERROR(ReadInto(parts.At(i), depth + 1));
  return {};
}

Status Decoder::ReadOne(const JsonField& field, const std::string& type) {
  if (type == "Replace") return ReadReplace(field);
  if (type == "Metaspace") return ReadMetaspace(field);
  if (type == "Strip") return ReadStrip(field);
  if (type == "Fuse") {
    steps_.push_back({[] { return std::make_unique<FuseStep>(); }, {}});
    joined_ = true;
  } else if (type == "ByteLevel") {
    if (joined_) return field.Error("ByteLevel behind Fuse or ByteLevel is not supported");
    steps_.push_back({[] { return std::make_unique<ByteLevelStep>(); },
                      [](const std::string& token) { return ByteLevelBytes(token); }});
    joined_ = true;
  } else if (type == "ByteFallback") {
    if (joined_) {
      steps_.push_back({[] { return std::make_unique<ByteFallbackJoinedStep>(); }, {}});
      return {};
    }
    steps_.push_back({[] { return std::make_unique<ByteFallbackStep>(); },
                      [](const std::string& token) {
                        const auto byte = FallbackByte(token);
                        return byte ? std::string(1, static_cast<char>(*byte)) : token;
                      }});
  } else if (type == "BPEDecoder") {
    CHOIR_ASSIGN_OR_RETURN(const std::string suffix, field["suffix"].String());
    if (suffix.empty()) return field["suffix"].Error("must not be empty");
    const auto bytes = [suffix](std::string token) {
      ReplaceAll(Pattern::FromLiteral(suffix), " ", &token, nullptr);
      return token;
    };
    if (joined_) {
      steps_.push_back({[=] { return std::make_unique<ReplaceJoinedStep>(suffix, ""); }, bytes});
    } else {
      steps_.push_back({[=] { return std::make_unique<BpeSuffixStep>(suffix); }, bytes});
    }
  } else {
    return field["type"].Error(
        "this decoder is not supported (Sequence, ByteLevel, Replace, ByteFallback, Fuse, Strip, "
        "Metaspace and BPEDecoder are)");
  }
  return {};
}

Status Decoder::ReadReplace(const JsonField& field) {
  CHOIR_ASSIGN_OR_RETURN(const Pattern pattern, ReadPattern(field["pattern"]));
  CHOIR_ASSIGN_OR_RETURN(const std::string content, field["content"].String());
  const auto bytes = [=](std::string token) {
    RegexScratch scratch;
    ReplaceAll(pattern, content, &token, &scratch);
    return token;
  };
  if (!joined_) {
    steps_.push_back({[=] { return std::make_unique<ReplaceStep>(pattern, content); }, bytes});
    return {};
  }
  if (!pattern.is_literal() || pattern.literal().empty()) {
    return field["pattern"].Error("behind Fuse or ByteLevel only a non-empty String is supported");
  }
  const std::string literal = pattern.literal();
  steps_.push_back({[=] { return std::make_unique<ReplaceJoinedStep>(literal, content); }, bytes});
  return {};
}

Status Decoder::ReadMetaspace(const JsonField& field) {
  CHOIR_ASSIGN_OR_RETURN(const char32_t replacement, field["replacement"].Character());
  CHOIR_ASSIGN_OR_RETURN(const bool old_prefix, field["add_prefix_space"].Bool(true));
  std::string scheme = old_prefix ? "always" : "never";
  if (field["prepend_scheme"].present()) {
    CHOIR_ASSIGN_OR_RETURN(scheme, field["prepend_scheme"].String());
  }
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    return field["prepend_scheme"].Error("must be always, first or never");
  }
  std::string text;
  unicode::Append(replacement, &text);
  const bool drops_first = scheme != "never";
  const bool joined = joined_;
  steps_.push_back({[=] { return std::make_unique<MetaspaceStep>(text, drops_first, joined); },
                    [=](const std::string& token) {
                      Texts out;
                      MetaspaceStep(text, false, false).Push(token, &out);
                      return out[0];
                    }});
  return {};
}

Status Decoder::ReadStrip(const JsonField& field) {
  constexpr int64_t kMax = 1 << 20;
  CHOIR_ASSIGN_OR_RETURN(const char32_t c, field["content"].Character());
  CHOIR_ASSIGN_OR_RETURN(const size_t start, field["start"].Integer({}, 0, kMax));
  CHOIR_ASSIGN_OR_RETURN(const size_t stop, field["stop"].Integer({}, 0, kMax));
  std::string content;
  unicode::Append(c, &content);
  const bool joined = joined_;
  std::function<std::string(std::string)> bytes;
  if (!joined) {
    bytes = [=](const std::string& token) {
      Texts out;
      StripStep(content, start, stop, false).Push(token, &out);
      return out[0];
    };
  }
  steps_.push_back(
      {[=] { return std::make_unique<StripStep>(content, start, stop, joined); }, bytes});
  return {};
}

}  // namespace choir::text
