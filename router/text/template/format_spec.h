// Python's format specifications ("{:>8.3f}" and "%-8d"): width, sign, precision and the like.
#pragma once

#include <string>
#include <string_view>

#include "router/text/template/runtime.h"

namespace choir::tmpl {

constexpr int64_t kWidthMax = 1'000'000;  // characters

struct FormatSpec {
  std::string fill = " ";
  char align = '\0';  // < > ^ =; none: the type's own
  char sign = '-';
  bool alternate = false, zero = false;
  char group = '\0';
  int64_t width = 0, precision = -1;
  char type = '\0';
};

// The digits of the magnitude in the base that `type` names.
std::string IntegerDigits(int64_t v, char type, bool alternate);
std::string SignOf(bool negative, char sign);
// Sign, digits and padding put together.
StatusOr<std::string> Lay(Runtime& rt, const FormatSpec& spec, std::string sign, std::string body,
                          char align);
StatusOr<std::string> FormatNumber(Runtime& rt, const Value& v, const FormatSpec& spec);
StatusOr<std::string> FormatText(Runtime& rt, std::string text, const FormatSpec& spec);
// The digits at *i, bounded; moves past them.
int64_t TakeNumber(std::string_view text, size_t* i);
// format(v, spec).
StatusOr<std::string> FormatValue(Runtime& rt, const Value& v, std::string_view spec);

}  // namespace choir::tmpl
