// Python's two ways to format: text % values and text.format(values).
#include <cmath>

#include "router/text/template/format_spec.h"
#include "router/text/template/ops.h"
#include "router/text/template/unicode.h"

namespace choir::tmpl {
namespace {

// Steps through the arguments of text % arguments.
struct PercentArgs {
  const Value& all;
  std::vector<Value> items;
  size_t at = 0;

  StatusOr<Value> Next() {
    if (at >= items.size()) return InvalidArgument("not enough arguments for format string");
    return items[at++];
  }
};

// What ascii() makes of a repr().
std::string AsciiEscapes(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const uint32_t c = NextChar(text, &i);
    if (c < 0x80) {
      out.push_back(static_cast<char>(c));
    } else {
      out += c < 0x100     ? fmt::format("\\x{:02x}", c)
             : c < 0x10000 ? fmt::format("\\u{:04x}", c)
                           : fmt::format("\\U{:08x}", c);
    }
  }
  return out;
}

StatusOr<std::string> ConvertPercent(Runtime& rt, char code, FormatSpec spec, const Value& v) {
  if (code == 's' || code == 'r' || code == 'a') {
    Sink text(rt);
    CHOIR_RETURN_IF_ERROR(code == 's' ? AddText(rt, v, &text) : AddRepr(rt, v, &text));
    if (spec.align == '\0') spec.align = '>';
    spec.fill = " ";
    return FormatText(rt, code == 'a' ? AsciiEscapes(text.Take()) : text.Take(), spec);
  }
  if (code == 'c' && v.IsString()) {
    if (CountChars(v.Text()) != 1) return InvalidArgument("%c requires int or char");
    if (spec.align == '\0') spec.align = '>';
    return FormatText(rt, v.Text(), spec);
  }
  if (v.IsUndefined()) return UndefinedError(v);
  if (!v.IsNumber()) {
    return InvalidArgument("%{} format: a number is required, not {}", code, TypeName(v));
  }
  spec.type = code == 'i' || code == 'u' ? 'd' : code;
  if (std::string_view("dxXoc").find(spec.type) == std::string_view::npos) {
    return FormatNumber(rt, Value::Float(v.AsDouble()), spec);
  }
  if (v.Is(Kind::kFloat) &&
      (spec.type != 'd' || std::abs(v.AsDouble()) > 9e18 || std::isnan(v.AsDouble()))) {
    return InvalidArgument("%{} format: an integer is required, not float", code);
  }
  const int64_t i = v.Is(Kind::kFloat) ? static_cast<int64_t>(v.AsDouble()) : v.AsInt();
  if (spec.precision >= 0 && spec.type != 'c') {  // the least number of digits
    std::string digits = IntegerDigits(i, spec.type, spec.alternate);
    const auto least = static_cast<size_t>(std::min(spec.precision, kWidthMax));
    if (digits.size() < least) digits.insert(0, least - digits.size(), '0');
    spec.fill = spec.align == '<' ? " " : spec.fill;
    return Lay(rt, spec, SignOf(i < 0, spec.sign), digits,
               spec.align == '\0' && spec.zero ? '=' : spec.align);
  }
  spec.precision = -1;
  return FormatNumber(rt, Value::Int(i), spec);
}

StatusOr<int64_t> PercentNumber(std::string_view format, size_t* i, PercentArgs* args) {
  if (*i < format.size() && format[*i] == '*') {
    ++*i;
    CHOIR_ASSIGN_OR_RETURN(const Value v, args->Next());
    return IntArg(v, "* ", 0);
  }
  return TakeNumber(format, i);
}

// One conversion, from after its '%'.
Status AddPercent(Runtime& rt, std::string_view format, size_t* i, PercentArgs* args, Sink* out) {
  const auto at = [&](size_t k) { return k < format.size() ? format[k] : '\0'; };
  FormatSpec spec;
  Value value = Value::Absent();
  if (at(*i) == '(') {
    const size_t close = format.find(')', *i);
    if (close == std::string_view::npos) return InvalidArgument("incomplete format key");
    if (!args->all.Is(Kind::kDict)) return InvalidArgument("format requires a mapping");
    const std::string key(format.substr(*i + 1, close - *i - 1));
    const Value* found = args->all.Dict().Find(key);
    if (found == nullptr) return InvalidArgument("the format's mapping has no '{}'", key);
    value = *found;
    *i = close + 1;
  }
  for (; *i < format.size() && std::string_view("-+ #0").find(format[*i]) != std::string_view::npos;
       ++*i) {
    if (at(*i) == '-') spec.align = '<';
    if (at(*i) == '+' || (at(*i) == ' ' && spec.sign != '+')) spec.sign = at(*i);
    spec.alternate |= at(*i) == '#';
    spec.zero |= at(*i) == '0';
  }
  if (spec.zero && spec.align == '\0') spec.fill = "0";
  CHOIR_ASSIGN_OR_RETURN(spec.width, PercentNumber(format, i, args));
  if (spec.width < 0) {
    spec.align = '<';
    spec.width = -spec.width;
  }
  if (at(*i) == '.') {
    ++*i;
    CHOIR_ASSIGN_OR_RETURN(spec.precision, PercentNumber(format, i, args));
    spec.precision = std::max<int64_t>(spec.precision, 0);
  }
  const char code = at((*i)++);
  if (code == '\0') return InvalidArgument("incomplete format");
  if (code == '%') return out->Add("%");
  if (std::string_view("diuoxXeEfFgGcrsa").find(code) == std::string_view::npos) {
    return InvalidArgument("unsupported format character '{}'", code);
  }
  if (value.Is(Kind::kAbsent)) {
    CHOIR_ASSIGN_OR_RETURN(value, args->Next());
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ConvertPercent(rt, code, spec, value));
  return out->Add(text);
}

// A replacement field's value: first[item].attribute...
StatusOr<Value> FieldValue(Runtime& rt, std::string_view name, const Args& args,
                           int64_t* automatic) {
  size_t i = 0;
  while (i < name.size() && name[i] != '.' && name[i] != '[') ++i;
  const std::string first(name.substr(0, i));
  Value value = Value::Absent();
  const bool is_number = first.find_first_not_of("0123456789") == std::string::npos;
  if (is_number) {
    if ((*automatic < 0) != !first.empty() && *automatic != 0) {
      return InvalidArgument("format: automatic and manual field numbering cannot be mixed");
    }
    if (!first.empty()) *automatic = -1;
    const int64_t index = first.empty() ? (*automatic)++ : std::atoll(first.c_str());
    if (static_cast<uint64_t>(index) >= args.positional.size()) {
      return InvalidArgument("Replacement index {} out of range for positional args tuple", index);
    }
    value = args.positional[static_cast<size_t>(index)];
  }
  for (const auto& [key, v] : args.named) {
    if (!is_number && key == first) value = v;
  }
  if (value.Is(Kind::kAbsent)) return InvalidArgument("format: there is no argument '{}'", first);
  while (i < name.size()) {
    const bool is_item = name[i++] == '[';
    const size_t end =
        std::min(is_item ? name.find(']', i) : name.find_first_of(".[", i), name.size());
    const std::string part(name.substr(i, end - i));
    const bool is_index =
        !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    if (is_item) {
      CHOIR_ASSIGN_OR_RETURN(
          value,
          GetItem(rt, value, is_index ? Value::Int(std::atoll(part.c_str())) : rt.String(part)));
    } else {
      CHOIR_ASSIGN_OR_RETURN(value, GetAttribute(rt, value, part));
    }
    i = is_item ? end + 1 : end;
  }
  return value;
}

}  // namespace

StatusOr<Value> FormatPercent(Runtime& rt, const std::string& format, const Value& arguments) {
  PercentArgs args{arguments, {arguments}};
  const bool is_tuple = arguments.Is(Kind::kList) && arguments.List().type == ListType::kTuple;
  if (is_tuple) args.items = arguments.List().items;
  Sink out(rt);
  for (size_t i = 0; i < format.size();) {
    const size_t percent = std::min(format.find('%', i), format.size());
    CHOIR_RETURN_IF_ERROR(out.Add(std::string_view(format).substr(i, percent - i)));
    if (percent == format.size()) break;
    i = percent + 1;
    CHOIR_RETURN_IF_ERROR(rt.Step());
    CHOIR_RETURN_IF_ERROR(AddPercent(rt, format, &i, &args, &out));
  }
  // Whatever takes an index counts as a mapping here, also a list and even an undefined value.
  const bool is_mapping = arguments.Is(Kind::kDict) || arguments.IsUndefined() ||
                          (arguments.Is(Kind::kList) && !is_tuple);
  if (args.at < args.items.size() && !is_mapping) {
    return InvalidArgument("not all arguments converted during string formatting");
  }
  return rt.String(out.Take());
}

StatusOr<Value> FormatBraces(Runtime& rt, const std::string& format, const Args& args) {
  Sink out(rt);
  int64_t automatic = 0;
  const std::string_view text = format;
  for (size_t i = 0; i < text.size();) {
    CHOIR_RETURN_IF_ERROR(rt.Step());
    const char c = text[i];
    if (c != '{' && c != '}') {
      const size_t end = std::min(text.find_first_of("{}", i), text.size());
      CHOIR_RETURN_IF_ERROR(out.Add(text.substr(i, end - i)));
      i = end;
      continue;
    }
    if (i + 1 < text.size() && text[i + 1] == c) {
      CHOIR_RETURN_IF_ERROR(out.Add(text.substr(i, 1)));
      i += 2;
      continue;
    }
    if (c == '}') return InvalidArgument("Single '}}' encountered in format string");
    const size_t close = text.find('}', i);
    if (close == std::string_view::npos)
      return InvalidArgument("expected '}}' before end of string");
    const std::string_view field = text.substr(i + 1, close - i - 1);
    if (field.find('{') != std::string_view::npos) {
      return InvalidArgument("format: fields inside fields are not supported");
    }
    const size_t colon = std::min(field.find(':'), field.size());
    std::string_view name = field.substr(0, colon);
    const size_t bang = name.find('!');
    const std::string conversion(bang == std::string_view::npos ? "" : name.substr(bang + 1));
    name = name.substr(0, bang);
    CHOIR_ASSIGN_OR_RETURN(Value value, FieldValue(rt, name, args, &automatic));
    if (!conversion.empty()) {
      Sink converted(rt);
      CHOIR_RETURN_IF_ERROR(conversion == "s" ? AddText(rt, value, &converted)
                                              : AddRepr(rt, value, &converted));
      value = rt.String(converted.Take());
    }
    const std::string_view spec = colon < field.size() ? field.substr(colon + 1) : "";
    CHOIR_ASSIGN_OR_RETURN(const std::string piece, FormatValue(rt, value, spec));
    CHOIR_RETURN_IF_ERROR(out.Add(piece));
    i = close + 1;
  }
  return rt.String(out.Take());
}

}  // namespace choir::tmpl
