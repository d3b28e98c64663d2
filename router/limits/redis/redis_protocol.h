// Redis' protocol: commands and answers as bytes. The only file pair that includes hiredis. One
// thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

struct redisReader;

namespace choir {

std::string EncodeCommand(const std::vector<std::string>& words);

class AnswerReader {
 public:
  AnswerReader();
  ~AnswerReader();
  AnswerReader(const AnswerReader&) = delete;
  AnswerReader& operator=(const AnswerReader&) = delete;

  void Feed(std::string_view bytes);
  // The next whole answer: its texts, one for a text, or why it is of no use, which what follows a
  // broken one is neither. nullopt: more bytes are needed.
  std::optional<StatusOr<std::vector<std::string>>> Next();

 private:
  redisReader* const reader_;
};

}  // namespace choir
