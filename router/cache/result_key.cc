#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <type_traits>

#include "router/cache/result_cache.h"

namespace choir {
namespace {

// Every part with its length before it, so that no two questions have one text.
class Hasher {
 public:
  template <typename T>
  void Add(T number) {
    static_assert(std::is_arithmetic_v<T>);
    hash_.Update(std::as_bytes(std::span(&number, 1)));
  }
  void Add(const std::string& text) {
    Add(uint64_t{text.size()});
    hash_.Update(text);
  }
  template <typename T>
  void Add(const std::vector<T>& numbers) {
    Add(uint64_t{numbers.size()});
    hash_.Update(std::as_bytes(std::span(numbers)));
  }
  ResultKey Finish() { return hash_.Finish(); }

 private:
  Sha256 hash_;
};

}  // namespace

std::optional<ResultKey> KeyOf(const ResultQuestion& question) {
  const SequenceSampling& s = question.sampling;
  const bool greedy = s.temperature == 0;
  if ((!greedy && !question.seeded) || s.num_logprobs >= 0) return std::nullopt;
  Hasher hasher;
  hasher.Add(question.tenant);
  hasher.Add(question.numerics_id);
  hasher.Add(question.prompt);
  hasher.Add(s.max_tokens);
  hasher.Add(s.temperature);
  if (!greedy) {
    hasher.Add(s.seed);
    hasher.Add(s.top_p);
    hasher.Add(s.top_k);
    hasher.Add(s.min_p);
  }
  hasher.Add(s.presence_penalty);
  hasher.Add(s.frequency_penalty);
  hasher.Add(s.bias_ids);
  hasher.Add(s.bias_values);
  hasher.Add(s.stop_token_ids);
  hasher.Add(question.num_choices);
  hasher.Add(uint64_t{question.stops.size()});
  for (const std::string& stop : question.stops) hasher.Add(stop);
  return hasher.Finish();
}

std::string EncodeKnownAnswer(const KnownAnswer& answer) {
  nlohmann::json choices = nlohmann::json::array();
  for (const KnownChoice& choice : answer) {
    choices.push_back({{"tokens", choice.tokens}, {"finish", choice.finish_reason}});
  }
  const std::vector<uint8_t> bytes = nlohmann::json::to_cbor(choices);
  return {bytes.begin(), bytes.end()};
}

std::optional<KnownAnswer> DecodeKnownAnswer(const std::string& bytes) {
  const auto choices = nlohmann::json::from_cbor(bytes, true, /*allow_exceptions=*/false);
  if (!choices.is_array() || choices.empty()) return std::nullopt;
  KnownAnswer answer;
  for (const auto& choice : choices) {
    if (!choice.is_object() || !choice.contains("tokens") || !choice.contains("finish") ||
        !choice["tokens"].is_array() || !choice["finish"].is_string()) {
      return std::nullopt;
    }
    KnownChoice known{.finish_reason = choice["finish"].get<std::string>()};
    for (const auto& token : choice["tokens"]) {
      if (!token.is_number_integer()) return std::nullopt;
      known.tokens.push_back(token.get<int32_t>());
    }
    answer.push_back(std::move(known));
  }
  return answer;
}

}  // namespace choir
