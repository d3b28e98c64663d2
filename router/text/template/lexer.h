// Template text to tokens: Jinja's delimiters with trim_blocks and lstrip_blocks on, whitespace
// control signs, comments, raw blocks. The whole template is lexed before parsing.
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"

namespace choir::tmpl {

enum class TokenKind : uint8_t {
  kData,
  kOutputBegin,
  kOutputEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string text;  // data, name, operator, or the string's value
  int64_t integer = 0;
  bool too_large = false;  // an integer beyond 64 bits: an error only where it is evaluated
  double number = 0;
};

// InvalidArgument with the line. The last token is kEnd.
StatusOr<std::vector<Token>> Lex(const std::string& source);

}  // namespace choir::tmpl
