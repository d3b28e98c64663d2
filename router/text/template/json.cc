// json.dumps as transformers' tojson filter calls it.
#include <algorithm>
#include <cmath>

#include "router/text/template/ops.h"
#include "router/text/template/unicode.h"

namespace choir::tmpl {
namespace {

std::string Quote(const std::string& text, bool ensure_ascii) {
  static constexpr std::string_view kFrom = "\"\\\n\r\t\b\f", kTo = "\"\\nrtbf";
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const uint32_t c = NextChar(text, &i);
    const size_t simple = c < 0x80 ? kFrom.find(static_cast<char>(c)) : std::string_view::npos;
    if (simple != std::string_view::npos) {
      out.push_back('\\');
      out.push_back(kTo[simple]);
    } else if (c < 0x20 || (ensure_ascii && c > 0x7E && c < 0x10000)) {
      out += fmt::format("\\u{:04x}", c);
    } else if (ensure_ascii && c >= 0x10000) {
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((c - 0x10000) >> 10),
                         0xDC00 + ((c - 0x10000) & 0x3FF));
    } else {
      out.append(text, begin, i - begin);
    }
  }
  out.push_back('"');
  return out;
}

std::string Number(double d) {
  if (std::isnan(d)) return "NaN";
  if (std::isinf(d)) return d > 0 ? "Infinity" : "-Infinity";
  return FloatRepr(d);
}

class Writer {
 public:
  Writer(Runtime& rt, const JsonStyle& style, Sink* out) : rt_(rt), style_(style), out_(*out) {}

  Status Write(const Value& v) {
    CHOIR_RETURN_IF_ERROR(rt_.Step());
    switch (v.kind()) {
      case Kind::kNone:
        return out_.Add("null");
      case Kind::kBool:
        return out_.Add(v.AsInt() != 0 ? "true" : "false");
      case Kind::kInt:
        return out_.Add(std::to_string(v.AsInt()));
      case Kind::kFloat:
        return out_.Add(Number(v.AsDouble()));
      case Kind::kString:
        CHOIR_RETURN_IF_ERROR(rt_.StepBytes(v.Text().size()));
        return out_.Add(Quote(v.Text(), style_.ensure_ascii));
      case Kind::kList:
        if (v.List().type > ListType::kTuple) break;
        return WriteList(v.List());
      case Kind::kDict:
        return WriteDict(v.Dict());
      default:
        break;
    }
    return InvalidArgument("Object of type {} is not JSON serializable", TypeName(v));
  }

 private:
  Status NewLine() {
    if (!style_.indented) return {};
    CHOIR_RETURN_IF_ERROR(out_.Add("\n"));
    for (int i = 0; i < level_; ++i) CHOIR_RETURN_IF_ERROR(out_.Add(style_.indent));
    return {};
  }

  Status Separate(bool first) {
    if (!first) CHOIR_RETURN_IF_ERROR(out_.Add(style_.item_separator));
    return NewLine();
  }

  Status WriteList(const ListObject& list) {
    if (list.items.empty()) return out_.Add("[]");
    CHOIR_RETURN_IF_ERROR(out_.Add("["));
    ++level_;
    for (size_t i = 0; i < list.items.size(); ++i) {
      CHOIR_RETURN_IF_ERROR(Separate(i == 0));
      CHOIR_RETURN_IF_ERROR(Write(list.items[i]));
    }
    --level_;
    CHOIR_RETURN_IF_ERROR(NewLine());
    return out_.Add("]");
  }

  StatusOr<std::string> Key(const Value& key) const {
    switch (key.kind()) {
      case Kind::kString:
        return key.Text();
      case Kind::kNone:
        return std::string("null");
      case Kind::kBool:
        return std::string(key.AsInt() != 0 ? "true" : "false");
      case Kind::kInt:
        return std::to_string(key.AsInt());
      case Kind::kFloat:
        return Number(key.AsDouble());
      default:
        return InvalidArgument("keys must be str, int, float, bool or None, not {}", TypeName(key));
    }
  }

  StatusOr<std::vector<const std::pair<Value, Value>*>> Entries(const DictObject& dict) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (!style_.sort_keys) return entries;
    Status failure;
    std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
      const auto less = Less(rt_, a->first, b->first, "<");
      if (!less.ok()) failure = less.status();
      return less.ok() && *less;
    });
    if (!failure.ok()) return failure;
    return entries;
  }

  Status WriteDict(const DictObject& dict) {
    if (dict.entries.empty()) return out_.Add("{}");
    CHOIR_RETURN_IF_ERROR(out_.Add("{"));
    ++level_;
    bool first = true;
    CHOIR_ASSIGN_OR_RETURN(const auto entries, Entries(dict));
    for (const auto* entry : entries) {
      CHOIR_RETURN_IF_ERROR(Separate(std::exchange(first, false)));
      CHOIR_ASSIGN_OR_RETURN(const std::string key, Key(entry->first));
      CHOIR_RETURN_IF_ERROR(out_.Add(Quote(key, style_.ensure_ascii)));
      CHOIR_RETURN_IF_ERROR(out_.Add(style_.key_separator));
      CHOIR_RETURN_IF_ERROR(Write(entry->second));
    }
    --level_;
    CHOIR_RETURN_IF_ERROR(NewLine());
    return out_.Add("}");
  }

  Runtime& rt_;
  const JsonStyle& style_;
  Sink& out_;
  int level_ = 0;
};

}  // namespace

Status AddJson(Runtime& rt, const Value& v, const JsonStyle& style, Sink* out) {
  return Writer(rt, style, out).Write(v);
}

}  // namespace choir::tmpl
