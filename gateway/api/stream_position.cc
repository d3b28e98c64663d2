#include "gateway/api/stream_position.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "gateway/api/request.h"

namespace choir {
namespace {

constexpr int kVersion = 1;  // of ResumeState

std::optional<ChoicePosition> ParseChoice(std::string_view text) {
  ChoicePosition choice;
  if (text.empty()) return choice;
  choice.begun = true;
  choice.finished = text.ends_with('e');
  if (choice.finished) text.remove_suffix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), choice.tokens);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return choice;
}

}  // namespace

std::string PositionId(const StreamPosition& position) {
  std::string id;
  for (size_t i = 0; i < position.size(); ++i) {
    if (i > 0) id += '.';
    if (!position[i].begun) continue;
    id += std::to_string(position[i].tokens);
    if (position[i].finished) id += 'e';
  }
  return id;
}

std::optional<StreamPosition> ParsePositionId(std::string_view id) {
  StreamPosition position;
  while (position.size() < kRequestChoicesMax) {
    const size_t dot = id.find('.');
    const auto choice = ParseChoice(id.substr(0, dot));
    if (!choice) return std::nullopt;
    position.push_back(*choice);
    if (dot == std::string_view::npos) return position;
    id.remove_prefix(dot + 1);
  }
  return std::nullopt;
}

std::string WriteResumeState(const ResumeState& s) {
  return nlohmann::json{
      {"v", kVersion},          {"chat", s.chat},       {"usage", s.include_usage},
      {"logprobs", s.logprobs}, {"choices", s.choices}, {"created", s.created},
      {"model", s.model}}
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::optional<ResumeState> ReadResumeState(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return std::nullopt;
  ResumeState state;
  try {
    if (json.at("v") != kVersion) return std::nullopt;
    state = {.chat = json.at("chat"),
             .include_usage = json.at("usage"),
             .logprobs = json.at("logprobs"),
             .choices = json.at("choices"),
             .created = json.at("created"),
             .model = json.at("model")};
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
  if (state.choices < 1 || state.choices > kRequestChoicesMax) return std::nullopt;
  return state;
}

}  // namespace choir
