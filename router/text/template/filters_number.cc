// Filters on numbers, conversions, and the look-up of all filters.
#include <cmath>
#include <cstdlib>

#include "router/text/template/filters.h"
#include "router/text/template/ops.h"
#include "router/text/template/unicode.h"

namespace choir::tmpl {
namespace {

std::string WithoutUnderscores(std::string_view text, bool* ok) {
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool between = i > 0 && i + 1 < text.size() &&
                         std::isalnum(static_cast<unsigned char>(text[i - 1])) &&
                         std::isalnum(static_cast<unsigned char>(text[i + 1]));
    if (text[i] != '_') {
      digits.push_back(text[i]);
    } else if (!between) {
      *ok = false;
    }
  }
  return digits;
}

// int(text, base): optional sign and prefix, digits, single underscores between them.
StatusOr<bool> ParseInteger(std::string_view text, int base, int64_t* value) {
  bool ok = true;
  std::string digits = WithoutUnderscores(Strip(text, nullptr, true, true), &ok);
  const size_t sign = !digits.empty() && (digits[0] == '-' || digits[0] == '+') ? 1 : 0;
  if (digits.size() > sign + 1 && digits[sign] == '0') {
    const char prefix = static_cast<char>(digits[sign + 1] | 0x20);
    const int implied = prefix == 'x'                 ? 16
                        : prefix == 'o'               ? 8
                        : prefix == 'b' && base != 16 ? 2
                                                      : 0;
    if (implied != 0 && (base == 0 || base == implied)) {
      digits.erase(sign, 2);
      base = implied;
    }
  }
  if (!ok || digits.size() == sign || base == 1 || base > 36 || base < 0) return false;
  if (!std::isalnum(static_cast<unsigned char>(digits[sign]))) return false;
  errno = 0;
  char* end = nullptr;
  *value = std::strtoll(digits.c_str(), &end, base == 0 ? 10 : base);
  if (end != digits.c_str() + digits.size()) return false;
  if (errno == ERANGE) return InvalidArgument("an integer does not fit in 64 bits");
  return true;
}

bool ParseFloat(std::string_view text, double* value) {
  bool ok = true;
  const std::string digits = WithoutUnderscores(Strip(text, nullptr, true, true), &ok);
  if (!ok || digits.empty() || digits.find_first_of("xXpP(") != std::string::npos) return false;
  char* end = nullptr;
  *value = std::strtod(digits.c_str(), &end);
  return end == digits.c_str() + digits.size();
}

StatusOr<Value> Truncated(double d, const Value& absent) {
  if (std::isnan(d) || std::isinf(d)) return absent;
  if (std::abs(d) >= 9.2e18) return InvalidArgument("an integer does not fit in 64 bits");
  return Value::Int(static_cast<int64_t>(d));
}

StatusOr<Value> Int(Runtime&, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("int", args, {"default", "base"}));
  CHOIR_ASSIGN_OR_RETURN(const int64_t base, IntArg(a[1], "the base", 10));
  const Value absent = a[0].Is(Kind::kAbsent) ? Value::Int(0) : a[0];
  if (self.IsUndefined()) return UndefinedError(self);
  if (self.IsIntegral()) return Value::Int(self.AsInt());
  if (self.Is(Kind::kFloat)) {
    if (std::isinf(self.AsDouble()))
      return InvalidArgument("cannot convert infinity to an integer");
    return Truncated(self.AsDouble(), absent);
  }
  if (!self.IsString()) return absent;
  int64_t value = 0;
  CHOIR_ASSIGN_OR_RETURN(const bool is_integer,
                         ParseInteger(self.Text(), static_cast<int>(base), &value));
  if (is_integer) return Value::Int(value);
  double d = 0;
  return ParseFloat(self.Text(), &d) ? Truncated(d, absent) : absent;
}

StatusOr<Value> Float(Runtime&, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("float", args, {"default"}));
  if (self.IsUndefined()) return UndefinedError(self);
  if (self.IsNumber()) return Value::Float(self.AsDouble());
  double d = 0;
  if (self.IsString() && ParseFloat(self.Text(), &d)) return Value::Float(d);
  return a[0].Is(Kind::kAbsent) ? Value::Float(0.0) : a[0];
}

StatusOr<Value> Abs(Runtime&, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("abs", args, {}).status());
  if (self.IsUndefined()) return UndefinedError(self);
  if (self.Is(Kind::kFloat)) return Value::Float(std::abs(self.AsDouble()));
  if (!self.IsIntegral())
    return InvalidArgument("bad operand type for abs(): '{}'", TypeName(self));
  return self.AsInt() < 0 ? Sign(self, true) : StatusOr<Value>(Value::Int(self.AsInt()));
}

// Exactly rounded, ties to even, as Python's round(): the decimal text decides.
double RoundTo(double d, int digits) {
  if (std::isnan(d) || std::isinf(d) || digits > 300) return d;
  if (digits >= 0) return std::strtod(fmt::format("{:.{}f}", d, digits).c_str(), nullptr);
  const double scale = std::pow(10.0, -digits);
  return std::isinf(scale) ? 0.0 * d : std::nearbyint(d / scale) * scale;
}

StatusOr<Value> RoundInteger(int64_t i, int64_t digits) {
  if (digits >= 0) return Value::Int(i);
  if (digits < -18) return Value::Int(0);
  int64_t scale = 1;
  for (; digits < 0; ++digits) scale *= 10;
  const __int128 half = scale / 2;
  __int128 down = i / scale - (i % scale < 0 ? 1 : 0);
  const __int128 rest = i - down * scale;
  if (rest > half || (rest == half && down % 2 != 0)) ++down;
  const __int128 rounded = down * scale;
  if (rounded > INT64_MAX || rounded < INT64_MIN) {
    return InvalidArgument("an integer does not fit in 64 bits");
  }
  return Value::Int(static_cast<int64_t>(rounded));
}

StatusOr<Value> Round(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("round", args, {"precision", "method"}));
  CHOIR_ASSIGN_OR_RETURN(const int64_t digits, IntArg(a[0], "the precision", 0));
  const std::string method = a[1].IsString() ? a[1].Text() : a[1].Is(Kind::kAbsent) ? "common" : "";
  if (method != "common" && method != "ceil" && method != "floor") {
    return InvalidArgument("round: the method must be common, ceil or floor");
  }
  if (self.IsUndefined()) return UndefinedError(self);
  if (!self.IsNumber()) return InvalidArgument("type {} cannot be rounded", TypeName(self));
  const int places = static_cast<int>(std::min<int64_t>(std::max<int64_t>(digits, -400), 400));
  if (method == "common") {
    if (self.IsIntegral()) return RoundInteger(self.AsInt(), digits);
    return Value::Float(RoundTo(self.AsDouble(), places));
  }
  CHOIR_ASSIGN_OR_RETURN(const Value scale,
                         Arithmetic(rt, MathOp::kPow, Value::Int(10), Value::Int(places)));
  CHOIR_ASSIGN_OR_RETURN(const Value scaled, Arithmetic(rt, MathOp::kMul, self, scale));
  const double d = scaled.AsDouble();
  if (std::isnan(d) || std::isinf(d)) return InvalidArgument("cannot round {}", FloatRepr(d));
  const Value whole = Value::Float(method == "ceil" ? std::ceil(d) : std::floor(d));
  return Arithmetic(rt, MathOp::kDiv, whole, scale);
}

StatusOr<Value> FileSizeFormat(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("filesizeformat", args, {"binary"}));
  const bool binary = BoolArg(a[0], false);
  CHOIR_ASSIGN_OR_RETURN(const Value number, Float(rt, self, {}));
  const double bytes = number.AsDouble();
  const double base = binary ? 1024 : 1000;
  if (bytes == 1) return rt.String("1 Byte");
  if (bytes < base) return rt.String(fmt::format("{:.0f} Bytes", std::trunc(bytes)));
  static constexpr const char* kPrefixes = "kMGTPEZY";
  double unit = base * base;
  size_t i = 0;
  for (; i < 7 && bytes >= unit; ++i) unit *= base;
  const std::string prefix(1, binary && i == 0 ? 'K' : kPrefixes[i]);
  return rt.String(fmt::format("{:.1f} {}{}", base * bytes / unit, prefix, binary ? "iB" : "B"));
}

constexpr NamedBuiltin kFilters[] = {{"int", Int},
                                     {"float", Float},
                                     {"abs", Abs},
                                     {"round", Round},
                                     {"filesizeformat", FileSizeFormat}};

}  // namespace

Builtin FindNumberFilter(const std::string& name) { return FindIn(kFilters, name); }

Builtin FindFilter(const std::string& name) {
  for (const auto find : {FindTextFilter, FindListFilter, FindSelectFilter, FindNumberFilter}) {
    if (const Builtin filter = find(name); filter != nullptr) return filter;
  }
  return nullptr;
}

}  // namespace choir::tmpl
