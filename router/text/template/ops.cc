#include "router/text/template/ops.h"

#include <cmath>

#include "router/text/template/text_search.h"
#include "router/text/template/unicode.h"

namespace choir::tmpl {
namespace {

constexpr const char* kMathText[] = {"+", "-", "*", "/", "//", "%", "**"};

Status Unsupported(MathOp op, const Value& a, const Value& b) {
  if (a.IsUndefined()) return UndefinedError(a);
  if (b.IsUndefined()) return UndefinedError(b);
  return InvalidArgument("unsupported operand types for {}: '{}' and '{}'",
                         kMathText[static_cast<int>(op)], TypeName(a), TypeName(b));
}

Status Overflow() { return InvalidArgument("an integer does not fit in 64 bits"); }

StatusOr<Value> Power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return InvalidArgument("0 cannot be raised to a negative power");
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  if (base == 0 || base == 1 || base == -1) {
    return Value::Int(exponent == 0 ? 1 : base == -1 && exponent % 2 == 0 ? 1 : base);
  }
  int64_t result = 1;
  for (; exponent > 0; --exponent) {
    if (__builtin_mul_overflow(result, base, &result)) return Overflow();
  }
  return Value::Int(result);
}

StatusOr<Value> IntegerMath(MathOp op, int64_t a, int64_t b) {
  int64_t r = 0;
  switch (op) {
    case MathOp::kAdd:
      return __builtin_add_overflow(a, b, &r) ? StatusOr<Value>(Overflow()) : Value::Int(r);
    case MathOp::kSub:
      return __builtin_sub_overflow(a, b, &r) ? StatusOr<Value>(Overflow()) : Value::Int(r);
    case MathOp::kMul:
      return __builtin_mul_overflow(a, b, &r) ? StatusOr<Value>(Overflow()) : Value::Int(r);
    case MathOp::kPow:
      return Power(a, b);
    default:
      break;
  }
  if (b == 0) return InvalidArgument("division by zero");
  if (op == MathOp::kDiv) return Value::Float(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) return op == MathOp::kMod ? Value::Int(0) : IntegerMath(MathOp::kSub, 0, a);
  const bool adjust = a % b != 0 && (a < 0) != (b < 0);  // Python rounds down
  return Value::Int(op == MathOp::kFloorDiv ? a / b - (adjust ? 1 : 0) : a % b + (adjust ? b : 0));
}

StatusOr<Value> FloatMath(MathOp op, double a, double b) {
  switch (op) {
    case MathOp::kAdd:
      return Value::Float(a + b);
    case MathOp::kSub:
      return Value::Float(a - b);
    case MathOp::kMul:
      return Value::Float(a * b);
    case MathOp::kPow: {
      if (a == 0 && b < 0) return InvalidArgument("0.0 cannot be raised to a negative power");
      const double r = std::pow(a, b);
      if (std::isnan(r) && !std::isnan(a) && !std::isnan(b)) {
        return InvalidArgument("a complex number results from **");
      }
      if (std::isinf(r) && !std::isinf(a) && !std::isinf(b))
        return InvalidArgument("result too large");
      return Value::Float(r);
    }
    default:
      break;
  }
  if (b == 0) return InvalidArgument("float division by zero");
  if (op == MathOp::kDiv) return Value::Float(a / b);
  double mod = std::fmod(a, b);
  double quotient = (a - mod) / b;
  if (mod != 0) {
    if ((b < 0) != (mod < 0)) {
      mod += b;
      quotient -= 1;
    }
  } else {
    mod = std::copysign(0.0, b);
  }
  if (op == MathOp::kMod) return Value::Float(mod);
  if (quotient == 0) return Value::Float(std::copysign(0.0, a / b));
  const double floor = std::floor(quotient);
  return Value::Float(quotient - floor > 0.5 ? floor + 1 : floor);
}

StatusOr<Value> AddSequences(Runtime& rt, const Value& a, const Value& b) {
  if (a.IsString()) {
    const bool safe = a.IsSafe() || b.IsSafe();
    std::string left = safe && !a.IsSafe() ? Escape(a.Text()) : a.Text();
    const std::string right = safe && !b.IsSafe() ? Escape(b.Text()) : b.Text();
    CHOIR_RETURN_IF_ERROR(rt.Fits(left.size() + right.size()));
    CHOIR_RETURN_IF_ERROR(rt.StepBytes(left.size() + right.size()));
    return rt.String(left += right, safe);
  }
  std::vector<Value> items = a.List().items;
  const std::vector<Value>& more = b.List().items;
  CHOIR_RETURN_IF_ERROR(rt.FitsValues(items.size() + more.size()));
  items.insert(items.end(), more.begin(), more.end());
  return rt.List(std::move(items), a.List().type);
}

StatusOr<Value> Repeat(Runtime& rt, const Value& sequence, int64_t count) {
  const auto n = static_cast<uint64_t>(std::max<int64_t>(count, 0));
  const uint64_t size = sequence.IsString() ? sequence.Text().size() : sequence.List().items.size();
  uint64_t total = 0;
  if (__builtin_mul_overflow(n, size, &total)) total = UINT64_MAX / sizeof(Value);
  if (sequence.IsString()) {
    CHOIR_RETURN_IF_ERROR(rt.Fits(total));
    CHOIR_RETURN_IF_ERROR(rt.StepBytes(total));
    std::string out;
    out.reserve(total);
    if (total > 0) out = sequence.Text();
    while (out.size() < total) out.append(out, 0, total - out.size());  // doubles
    return rt.String(std::move(out), sequence.IsSafe());
  }
  CHOIR_RETURN_IF_ERROR(rt.FitsValues(std::min(total, UINT64_MAX / sizeof(Value))));
  std::vector<Value> out;
  out.reserve(total);
  for (uint64_t i = 0; total > 0 && i < n; ++i) {
    out.insert(out.end(), sequence.List().items.begin(), sequence.List().items.end());
  }
  return rt.List(std::move(out), sequence.List().type);
}

bool IsPlainSequence(const Value& v) {
  return v.IsString() || (v.Is(Kind::kList) &&
                          (v.List().type == ListType::kList || v.List().type == ListType::kTuple));
}

bool SameSequenceType(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  return a.IsString() || a.List().type == b.List().type;
}

StatusOr<bool> SameEntries(Runtime& rt, const DictObject& a, const DictObject& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.Find(key);
    if (other == nullptr) return false;
    CHOIR_ASSIGN_OR_RETURN(const bool same, Equal(rt, value, *other));
    if (!same) return false;
  }
  return true;
}

}  // namespace

Status UndefinedError(const Value& v) { return InvalidArgument("{}", v.UndefinedMessage()); }

StatusOr<Value> Arithmetic(Runtime& rt, MathOp op, const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    if (a.IsIntegral() && b.IsIntegral()) return IntegerMath(op, a.AsInt(), b.AsInt());
    return FloatMath(op, a.AsDouble(), b.AsDouble());
  }
  if (op == MathOp::kAdd && IsPlainSequence(a) && IsPlainSequence(b) && SameSequenceType(a, b)) {
    return AddSequences(rt, a, b);
  }
  if (op == MathOp::kMul && IsPlainSequence(a) && b.IsIntegral()) return Repeat(rt, a, b.AsInt());
  if (op == MathOp::kMul && IsPlainSequence(b) && a.IsIntegral()) return Repeat(rt, b, a.AsInt());
  if (op == MathOp::kMod && a.IsString()) return FormatPercent(rt, a.Text(), b);
  return Unsupported(op, a, b);
}

StatusOr<Value> Sign(const Value& v, bool negate) {
  if (v.IsIntegral()) {
    return negate ? IntegerMath(MathOp::kSub, 0, v.AsInt())
                  : StatusOr<Value>(Value::Int(v.AsInt()));
  }
  if (v.Is(Kind::kFloat)) return Value::Float(negate ? -v.AsDouble() : v.AsDouble());
  if (v.IsUndefined()) return UndefinedError(v);
  return InvalidArgument("bad operand type for unary {}: '{}'", negate ? '-' : '+', TypeName(v));
}

StatusOr<bool> Equal(Runtime& rt, const Value& a, const Value& b) {
  CHOIR_RETURN_IF_ERROR(rt.Step());
  if (a.IsNumber() && b.IsNumber()) return NumbersEqual(a, b);
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      return a.Text() == b.Text();
    case Kind::kDict:
      return SameEntries(rt, a.Dict(), b.Dict());
    case Kind::kList:
      break;
    default:
      return a.Identity() == b.Identity();
  }
  const auto& x = a.List();
  const auto& y = b.List();
  if (&x == &y) return true;
  if (x.type != y.type || x.items.size() != y.items.size() || x.type == ListType::kValues)
    return false;
  for (size_t i = 0; i < x.items.size(); ++i) {
    CHOIR_ASSIGN_OR_RETURN(const bool same, Equal(rt, x.items[i], y.items[i]));
    if (!same) return false;
  }
  return true;
}

StatusOr<bool> Less(Runtime& rt, const Value& a, const Value& b, const char* op) {
  CHOIR_RETURN_IF_ERROR(rt.Step());
  if (a.IsNumber() && b.IsNumber()) {
    if (a.IsIntegral() && b.IsIntegral()) return a.AsInt() < b.AsInt();
    if (a.IsIntegral()) return CompareIntDouble(a.AsInt(), b.AsDouble()) == -1;
    if (b.IsIntegral()) return CompareIntDouble(b.AsInt(), a.AsDouble()) == 1;
    return a.AsDouble() < b.AsDouble();
  }
  if (a.IsString() && b.IsString()) return a.Text() < b.Text();
  if (!IsPlainSequence(a) || !IsPlainSequence(b) || !SameSequenceType(a, b)) {
    if (a.IsUndefined()) return UndefinedError(a);
    if (b.IsUndefined()) return UndefinedError(b);
    return InvalidArgument("'{}' not supported between instances of '{}' and '{}'", op, TypeName(a),
                           TypeName(b));
  }
  const auto& x = a.List().items;
  const auto& y = b.List().items;
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    CHOIR_ASSIGN_OR_RETURN(const bool same, Equal(rt, x[i], y[i]));
    if (!same) return Less(rt, x[i], y[i], op);
  }
  return x.size() < y.size();
}

StatusOr<bool> Compare(Runtime& rt, CompareOp op, const Value& a, const Value& b) {
  const bool has_nan = (a.Is(Kind::kFloat) && std::isnan(a.AsDouble())) ||
                       (b.Is(Kind::kFloat) && std::isnan(b.AsDouble()));
  StatusOr<bool> result = false;
  switch (op) {
    case CompareOp::kEq:
      return Equal(rt, a, b);
    case CompareOp::kIn:
      return Contains(rt, b, a);
    case CompareOp::kLt:
      return Less(rt, a, b, "<");
    case CompareOp::kGt:
      if (a.IsUndefined()) return UndefinedError(a);
      result = Less(rt, b, a, ">");
      break;
    case CompareOp::kNe:
      result = Equal(rt, a, b);
      break;
    case CompareOp::kNotIn:
      result = Contains(rt, b, a);
      break;
    case CompareOp::kLe:
      result = Less(rt, b, a, "<=");
      break;
    case CompareOp::kGe:
      result = Less(rt, a, b, ">=");
      break;
  }
  if (!result.ok() || op == CompareOp::kGt) return result;
  if (has_nan && (op == CompareOp::kLe || op == CompareOp::kGe)) return false;
  return !*result;
}

StatusOr<bool> Contains(Runtime& rt, const Value& container, const Value& item) {
  if (container.IsString()) {
    if (!item.IsString()) {
      return InvalidArgument("'in <string>' requires string as left operand, not {}",
                             TypeName(item));
    }
    CHOIR_RETURN_IF_ERROR(rt.StepBytes(container.Text().size() + item.Text().size()));
    return FindText(container.Text(), item.Text()) != std::string_view::npos;
  }
  if (container.Is(Kind::kDict)) {
    if (!IsHashable(item)) return InvalidArgument("unhashable type: '{}'", TypeName(item));
    return container.Dict().Find(item) != nullptr;
  }
  auto cursor = Cursor::Over(container);
  if (!cursor.ok()) {
    return InvalidArgument("argument of type '{}' is not iterable", TypeName(container));
  }
  for (Value candidate;;) {
    CHOIR_ASSIGN_OR_RETURN(const bool more, cursor->Next(rt, &candidate));
    if (!more) return false;
    CHOIR_ASSIGN_OR_RETURN(const bool same, Equal(rt, candidate, item));
    if (same) return true;
  }
}

StatusOr<int64_t> Length(const Value& v) {
  const auto cursor = Cursor::Over(v);
  if (cursor.ok() && cursor->Length() >= 0) return cursor->Length();
  return InvalidArgument("object of type '{}' has no len()", TypeName(v));
}

}  // namespace choir::tmpl
