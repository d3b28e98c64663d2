// str(), repr() and HTML escaping as Python prints.
#include <charconv>
#include <cmath>

#include "router/text/template/ops.h"
#include "router/text/template/unicode.h"

namespace choir::tmpl {
namespace {

Status AddStringRepr(const std::string& text, Sink* out) {
  const bool double_quotes =
      text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string r(1, quote);
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const uint32_t c = NextChar(text, &i);
    if (c == static_cast<uint32_t>(quote) || c == '\\') {
      r.push_back('\\');
      r.push_back(static_cast<char>(c));
    } else if (c == '\n' || c == '\r' || c == '\t') {
      r += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (IsPrintable(c)) {
      r.append(text, begin, i - begin);
    } else {
      r += c < 0x100     ? fmt::format("\\x{:02x}", c)
           : c < 0x10000 ? fmt::format("\\u{:04x}", c)
                         : fmt::format("\\U{:08x}", c);
    }
  }
  r.push_back(quote);
  return out->Add(r);
}

Status AddListRepr(Runtime& rt, const ListObject& list, Sink* out) {
  static constexpr const char* kOpen[] = {"[",           "(", "", "dict_keys([", "dict_values([",
                                          "dict_items(["};
  static constexpr const char* kClose[] = {"]", ")", "", "])", "])", "])"};
  const auto type = static_cast<size_t>(list.type);
  if (list.type == ListType::kRange) return out->Add(list.label);
  CHOIR_RETURN_IF_ERROR(out->Add(kOpen[type]));
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) CHOIR_RETURN_IF_ERROR(out->Add(", "));
    CHOIR_RETURN_IF_ERROR(AddRepr(rt, list.items[i], out));
  }
  if (list.type == ListType::kTuple && list.items.size() == 1) CHOIR_RETURN_IF_ERROR(out->Add(","));
  return out->Add(kClose[type]);
}

Status AddDictRepr(Runtime& rt, const DictObject& dict, Sink* out) {
  CHOIR_RETURN_IF_ERROR(out->Add("{"));
  bool first = true;
  for (const auto& [key, value] : dict.entries) {
    if (!std::exchange(first, false)) CHOIR_RETURN_IF_ERROR(out->Add(", "));
    CHOIR_RETURN_IF_ERROR(AddRepr(rt, key, out));
    CHOIR_RETURN_IF_ERROR(out->Add(": "));
    CHOIR_RETURN_IF_ERROR(AddRepr(rt, value, out));
  }
  return out->Add("}");
}

}  // namespace

std::string FloatRepr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific).ptr;
  const std::string_view shortest(buffer, static_cast<size_t>(end - buffer));
  const size_t e = shortest.find('e');
  const int exponent = std::atoi(std::string(shortest.substr(e + 1)).c_str());
  std::string sign = shortest[0] == '-' ? "-" : "";
  std::string digits(shortest.substr(sign.size(), e - sign.size()));
  std::erase(digits, '.');
  const auto count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    if (count > 1) digits.insert(1, ".");
    return fmt::format("{}{}e{}{:02}", sign, digits, exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0)
    return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (exponent + 1 >= count) {
    return sign + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  }
  return sign + digits.insert(static_cast<size_t>(exponent + 1), ".");
}

Status AddText(Runtime& rt, const Value& v, Sink* out) {
  if (!v.IsString()) return v.IsUndefined() ? Status() : AddRepr(rt, v, out);
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(v.Text().size()));
  return out->Add(v.Text());
}

StatusOr<std::string> ToText(Runtime& rt, const Value& v) {
  Sink sink(rt);
  CHOIR_RETURN_IF_ERROR(AddText(rt, v, &sink));
  return sink.Take();
}

Status AddRepr(Runtime& rt, const Value& v, Sink* out) {
  CHOIR_RETURN_IF_ERROR(rt.Step());
  switch (v.kind()) {
    case Kind::kUndefined:
      return out->Add("Undefined");
    case Kind::kNone:
      return out->Add("None");
    case Kind::kBool:
      return out->Add(v.AsInt() != 0 ? "True" : "False");
    case Kind::kInt:
      return out->Add(std::to_string(v.AsInt()));
    case Kind::kFloat:
      return out->Add(FloatRepr(v.AsDouble()));
    case Kind::kString:
      CHOIR_RETURN_IF_ERROR(rt.StepBytes(v.Text().size()));
      if (!v.IsSafe()) return AddStringRepr(v.Text(), out);
      CHOIR_RETURN_IF_ERROR(out->Add("Markup("));
      CHOIR_RETURN_IF_ERROR(AddStringRepr(v.Text(), out));
      return out->Add(")");
    case Kind::kList:
      return AddListRepr(rt, v.List(), out);
    case Kind::kDict:
      return AddDictRepr(rt, v.Dict(), out);
    case Kind::kFunction:
      return out->Add(v.Function().call == nullptr ? "<Macro '" + v.Function().name + "'>"
                                                   : "<function " + v.Function().name + ">");
    default:
      return out->Add(fmt::format("<{}>", TypeName(v)));
  }
}

std::string Escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out.push_back(c);
    }
  }
  return out;
}

}  // namespace choir::tmpl
