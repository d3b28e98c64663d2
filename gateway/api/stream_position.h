// Where a client is in a stream: how many tokens of each choice it has. As text it is the `id:` of
// events, which comes back as Last-Event-ID: for each choice the number of its tokens, "e" behind
// it when it has ended, nothing when it has not begun, joined by dots ("12.9e."). Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace choir {

struct ChoicePosition {
  bool begun = false;
  uint32_t tokens = 0;
  bool finished = false;
  bool operator==(const ChoicePosition&) const = default;
};
using StreamPosition = std::vector<ChoicePosition>;  // by choice

std::string PositionId(const StreamPosition& position);
// nullopt: not what PositionId writes, or of more choices than a request can have.
std::optional<StreamPosition> ParsePositionId(std::string_view id);

// What a gateway needs, beside the router's events, to go on with a stream that another one began.
struct ResumeState {
  bool chat = false;
  bool include_usage = false;
  bool logprobs = false;
  uint32_t choices = 1;
  int64_t created = 0;
  std::string model;
  bool operator==(const ResumeState&) const = default;
};

std::string WriteResumeState(const ResumeState& state);
// nullopt: written by another version.
std::optional<ResumeState> ReadResumeState(const std::string& text);

}  // namespace choir
