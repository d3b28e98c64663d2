#include "router/text/oniguruma_names.h"

#include "router/text/unicode_versions.h"

namespace choir::text::oniguruma {
namespace {

using unicode::LaterMembers;

bool IsGeneralCategory(std::string_view name) {
  static constexpr std::string_view kNames[] = {
      "C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",
      "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi",
      "Po", "Ps", "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs", "Any"};
  for (const std::string_view n : kNames) {
    if (n == name) return true;
  }
  return false;
}

std::string Bare(const std::string& name) { return IsGeneralCategory(name) ? name : "sc:" + name; }

std::string Derived(const std::string& name) { return "\\p{" + name + "}" + LaterMembers(name); }

}  // namespace

std::string Digit() { return Property("Nd"); }

std::string Word() {
  return Derived("Alphabetic") + Property("M") + Property("Nd") + Property("Pc");
}

std::string BareWord() { return Word() + R"(\xB2\xB3\xB9\xBC-\xBE)"; }

std::string Property(const std::string& name) {
  return "\\p{" + Bare(name) + "}" + LaterMembers(name);
}

std::string NegatedProperty(const std::string& name) { return "\\P{" + Bare(name) + "}"; }

std::string NamedClass(std::string_view lower) {
  if (lower == "alpha" || lower == "alphabetic") return Derived("Alphabetic");
  if (lower == "digit") return Digit();
  if (lower == "alnum") return Derived("Alphabetic") + Digit();
  if (lower == "upper" || lower == "uppercase") return Derived("Uppercase");
  if (lower == "lower" || lower == "lowercase") return Derived("Lowercase");
  if (lower == "space" || lower == "white_space") return kSpace;
  if (lower == "word") return Word();
  if (lower == "punct") return Property("P");
  if (lower == "cntrl") return R"(\p{Cc})";
  if (lower == "xdigit") return "0-9A-Fa-f";
  if (lower == "ascii") return R"(\x00-\x7F)";
  return {};
}

}  // namespace choir::text::oniguruma
