// Python's operators on values, and Jinja's attribute and item access.
#pragma once

#include <string>

#include "router/text/template/ast.h"
#include "router/text/template/runtime.h"

namespace choir::tmpl {

StatusOr<Value> Arithmetic(Runtime& rt, MathOp op, const Value& a, const Value& b);
StatusOr<Value> Sign(const Value& v, bool negate);
StatusOr<bool> Equal(Runtime& rt, const Value& a, const Value& b);
// a < b; `op` is the operator's text, for the message.
StatusOr<bool> Less(Runtime& rt, const Value& a, const Value& b, const char* op);
StatusOr<bool> Compare(Runtime& rt, CompareOp op, const Value& a, const Value& b);
StatusOr<bool> Contains(Runtime& rt, const Value& container, const Value& item);

StatusOr<Value> GetAttribute(Runtime& rt, const Value& object, const std::string& name);
StatusOr<Value> GetItem(Runtime& rt, const Value& object, const Value& key);
StatusOr<Value> Slice(Runtime& rt, const Value& v, const Value& start, const Value& stop,
                      const Value& step);
// len(v).
StatusOr<int64_t> Length(const Value& v);

// The error that using an undefined value gives.
Status UndefinedError(const Value& v);

// str(v) and repr(v).
StatusOr<std::string> ToText(Runtime& rt, const Value& v);
Status AddText(Runtime& rt, const Value& v, Sink* out);
Status AddRepr(Runtime& rt, const Value& v, Sink* out);
std::string FloatRepr(double d);
std::string Escape(const std::string& text);  // HTML

struct JsonStyle {
  bool ensure_ascii = false, sort_keys = false, indented = false;
  std::string indent, item_separator = ", ", key_separator = ": ";
};
// json.dumps.
Status AddJson(Runtime& rt, const Value& v, const JsonStyle& style, Sink* out);

// text % arguments; text.format(...).
StatusOr<Value> FormatPercent(Runtime& rt, const std::string& format, const Value& arguments);
StatusOr<Value> FormatBraces(Runtime& rt, const std::string& format, const Args& args);

}  // namespace choir::tmpl
