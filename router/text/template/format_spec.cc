#include "router/text/template/format_spec.h"

#include <cmath>

#include "router/text/template/ops.h"
#include "router/text/template/unicode.h"

namespace choir::tmpl {
namespace {

// Digits with a separator every three.
std::string Grouped(const std::string& digits, char separator) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out.push_back(separator);
    out.push_back(digits[i]);
  }
  return out;
}

std::string FloatDigits(double d, char type, int64_t precision) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return "inf";
  const int places = static_cast<int>(std::min<int64_t>(precision < 0 ? 6 : precision, 2000));
  switch (type) {
    case 'e':
      return fmt::format("{:.{}e}", d, places);
    case 'E':
      return fmt::format("{:.{}E}", d, places);
    case 'g':
      return fmt::format("{:.{}g}", d, places);
    case 'G':
      return fmt::format("{:.{}G}", d, places);
    case '%':
      return fmt::format("{:.{}f}%", d * 100, places);
    case '\0':
      return precision < 0 ? FloatRepr(d) : fmt::format("{:.{}g}", d, places);
    default:
      return fmt::format("{:.{}f}", d, places);
  }
}

bool IsAlign(char c) { return c == '<' || c == '>' || c == '^' || c == '='; }

StatusOr<FormatSpec> ParseSpec(std::string_view text) {
  FormatSpec spec;
  size_t i = 0;
  const auto at = [&](size_t k) { return k < text.size() ? text[k] : '\0'; };
  size_t after_fill = 0;
  if (!text.empty()) NextChar(text, &after_fill);
  if (!text.empty() && IsAlign(at(after_fill))) {
    spec.fill = std::string(text.substr(0, after_fill));
    spec.align = at(after_fill);
    i = after_fill + 1;
  } else if (IsAlign(at(0))) {
    spec.align = at(i++);
  }
  if (at(i) == '+' || at(i) == '-' || at(i) == ' ') spec.sign = at(i++);
  if (at(i) == '#') spec.alternate = (++i, true);
  if (at(i) == '0') {
    spec.zero = (++i, true);
    if (spec.align == '\0') spec.fill = "0";
  }
  spec.width = TakeNumber(text, &i);
  if (at(i) == ',' || at(i) == '_') spec.group = at(i++);
  if (at(i) == '.') {
    ++i;
    spec.precision = TakeNumber(text, &i);
  }
  if (i < text.size()) spec.type = text[i++];
  if (i != text.size()) return InvalidArgument("Invalid format specifier '{}'", text);
  return spec;
}

}  // namespace

std::string IntegerDigits(int64_t v, char type, bool alternate) {
  const uint64_t magnitude = v < 0 ? 0 - static_cast<uint64_t>(v) : static_cast<uint64_t>(v);
  switch (type) {
    case 'x':
      return fmt::format("{}{:x}", alternate ? "0x" : "", magnitude);
    case 'X':
      return fmt::format("{}{:X}", alternate ? "0X" : "", magnitude);
    case 'o':
      return fmt::format("{}{:o}", alternate ? "0o" : "", magnitude);
    case 'b':
      return fmt::format("{}{:b}", alternate ? "0b" : "", magnitude);
    default:
      return std::to_string(magnitude);
  }
}

StatusOr<std::string> Lay(Runtime& rt, const FormatSpec& spec, std::string sign, std::string body,
                          char align) {
  if (spec.group != '\0') {
    const size_t whole = std::min(body.find_first_not_of("0123456789"), body.size());
    body = Grouped(body.substr(0, whole), spec.group) + body.substr(whole);
  }
  const auto chars = static_cast<int64_t>(CountChars(sign) + CountChars(body));
  if (spec.width <= chars) return sign + body;
  if (spec.width > kWidthMax)
    return InvalidArgument("format: the width {} is too large", spec.width);
  const auto pad = static_cast<size_t>(spec.width - chars);
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(pad));
  const auto fill = [&](size_t n) {
    std::string out;
    for (size_t i = 0; i < n; ++i) out += spec.fill;
    return out;
  };
  switch (align) {
    case '<':
      return sign + body + fill(pad);
    case '^':
      return fill(pad / 2) + sign + body + fill(pad - pad / 2);
    case '=':
      return sign + fill(pad) + body;
    default:
      return fill(pad) + sign + body;
  }
}

std::string SignOf(bool negative, char sign) {
  if (negative) return "-";
  return sign == '+' || sign == ' ' ? std::string(1, sign) : "";
}

StatusOr<std::string> FormatNumber(Runtime& rt, const Value& v, const FormatSpec& spec) {
  const bool as_float =
      v.Is(Kind::kFloat) ||
      (spec.type != '\0' && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos);
  const char align = spec.align != '\0' ? spec.align : spec.zero ? '=' : '>';
  if (as_float) {
    if (spec.type != '\0' &&
        std::string_view("eEfFgG%n").find(spec.type) == std::string_view::npos) {
      return InvalidArgument("Unknown format code '{}' for object of type 'float'", spec.type);
    }
    const double d = v.AsDouble();
    return Lay(rt, spec, SignOf(std::signbit(d), spec.sign),
               FloatDigits(std::abs(d), spec.type, spec.precision), align);
  }
  if (spec.precision >= 0)
    return InvalidArgument("Precision not allowed in integer format specifier");
  if (spec.type == 'c') {
    std::string c;
    if (v.AsInt() < 0 || v.AsInt() > 0x10FFFF)
      return InvalidArgument("%c arg not in range(0x110000)");
    AppendChar(&c, static_cast<uint32_t>(v.AsInt()));
    return Lay(rt, spec, "", c, align);
  }
  if (spec.type != '\0' && std::string_view("dnxXob").find(spec.type) == std::string_view::npos) {
    return InvalidArgument("Unknown format code '{}' for object of type 'int'", spec.type);
  }
  std::string digits = IntegerDigits(v.AsInt(), spec.type, spec.alternate);
  return Lay(rt, spec, SignOf(v.AsInt() < 0, spec.sign), std::move(digits), align);
}

StatusOr<std::string> FormatText(Runtime& rt, std::string text, const FormatSpec& spec) {
  if (spec.precision >= 0) text.resize(ByteOffset(text, static_cast<size_t>(spec.precision)));
  return Lay(rt, spec, "", std::move(text),
             spec.align == '\0' || spec.align == '=' ? '<' : spec.align);
}

int64_t TakeNumber(std::string_view text, size_t* i) {
  int64_t n = 0;
  while (*i < text.size() && text[*i] >= '0' && text[*i] <= '9') {
    n = std::min<int64_t>(n * 10 + (text[*i] - '0'), INT32_MAX);
    ++*i;
  }
  return n;
}

StatusOr<std::string> FormatValue(Runtime& rt, const Value& v, std::string_view spec_text) {
  if (spec_text.empty()) return ToText(rt, v);
  CHOIR_ASSIGN_OR_RETURN(const FormatSpec spec, ParseSpec(spec_text));
  if (v.Is(Kind::kBool) && spec.type == '\0') {
    return FormatNumber(rt, Value::Int(v.AsInt()), spec);
  }
  if (v.IsNumber()) return FormatNumber(rt, v, spec);
  if (!v.IsString()) {
    return InvalidArgument("unsupported format string passed to {}.__format__", TypeName(v));
  }
  if (spec.type != '\0' && spec.type != 's') {
    return InvalidArgument("Unknown format code '{}' for object of type 'str'", spec.type);
  }
  if (spec.align == '=')
    return InvalidArgument("'=' alignment not allowed in string format specifier");
  return FormatText(rt, v.Text(), spec);
}

}  // namespace choir::tmpl
