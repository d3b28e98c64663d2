// Jinja's tests: `x is name`.
#include "router/text/template/filters.h"
#include "router/text/template/ops.h"
#include "router/text/template/unicode.h"

namespace choir::tmpl {
namespace {

template <bool (*F)(const Value&)>
StatusOr<Value> Is(Runtime&, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("the test", args, {}).status());
  return Value::Bool(F(self));
}

bool Defined(const Value& v) { return !v.IsUndefined(); }
bool Undefined(const Value& v) { return v.IsUndefined(); }
bool None(const Value& v) { return v.IsNone(); }
bool Boolean(const Value& v) { return v.Is(Kind::kBool); }
bool True(const Value& v) { return v.Is(Kind::kBool) && v.AsInt() != 0; }
bool False(const Value& v) { return v.Is(Kind::kBool) && v.AsInt() == 0; }
bool Integer(const Value& v) { return v.Is(Kind::kInt); }
bool IsFloat(const Value& v) { return v.Is(Kind::kFloat); }
bool Number(const Value& v) { return v.IsNumber(); }
bool IsString(const Value& v) { return v.IsString(); }
bool Mapping(const Value& v) { return v.Is(Kind::kDict); }
bool Callable(const Value& v) {
  return v.Is(Kind::kFunction) || v.IsUndefined() || v.Is(Kind::kLoop);
}
bool Iterable(const Value& v) { return Cursor::Over(v).ok() || v.Is(Kind::kLoop); }
bool Escaped(const Value& v) { return v.IsSafe(); }
// Has a length and takes an index; Jinja counts mappings and undefined in.
bool Sequence(const Value& v) {
  return v.IsUndefined() || v.IsString() || v.Is(Kind::kDict) ||
         (v.Is(Kind::kList) && v.List().type <= ListType::kRange);
}

template <bool (*kHas)(uint32_t), bool (*kHasNot)(uint32_t)>
StatusOr<Value> CaseTest(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("the test", args, {}).status());
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ToText(rt, self));
  bool any = false;
  for (size_t i = 0; i < text.size();) {
    const uint32_t c = NextChar(text, &i);
    if (kHasNot(c)) return Value::Bool(false);
    any |= kHas(c);
  }
  return Value::Bool(any);
}

template <CompareOp kOp>
StatusOr<Value> CompareTest(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("the test", args, {"other"}, 1));
  CHOIR_ASSIGN_OR_RETURN(const bool result, Compare(rt, kOp, self, a[0]));
  return Value::Bool(result);
}

template <int kDivisor, int kRest>  // kDivisor 0: the argument
StatusOr<Value> Divisible(Runtime& rt, const Value& self, const Args& args) {
  Value divisor = Value::Int(kDivisor);
  if (kDivisor == 0) {
    CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("divisibleby", args, {"num"}, 1));
    divisor = a[0];
  } else {
    CHOIR_RETURN_IF_ERROR(Bind("the test", args, {}).status());
  }
  CHOIR_ASSIGN_OR_RETURN(const Value rest, Arithmetic(rt, MathOp::kMod, self, divisor));
  CHOIR_ASSIGN_OR_RETURN(const bool result, Equal(rt, rest, Value::Int(kRest)));
  return Value::Bool(result);
}

StatusOr<Value> SameAs(Runtime&, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("sameas", args, {"other"}, 1));
  if (self.kind() != a[0].kind()) return Value::Bool(false);
  if (self.IsNumber()) return Value::Bool(NumbersEqual(self, a[0]));
  return Value::Bool(self.Identity() == a[0].Identity());
}

template <Builtin (*kFind)(const std::string&)>
StatusOr<Value> Exists(Runtime&, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("the test", args, {}).status());
  return Value::Bool(self.IsString() && kFind(self.Text()) != nullptr);
}

constexpr NamedBuiltin kTests[] = {
    {"defined", Is<Defined>},
    {"undefined", Is<Undefined>},
    {"none", Is<None>},
    {"string", Is<IsString>},
    {"boolean", Is<Boolean>},
    {"true", Is<True>},
    {"false", Is<False>},
    {"integer", Is<Integer>},
    {"float", Is<IsFloat>},
    {"number", Is<Number>},
    {"mapping", Is<Mapping>},
    {"sequence", Is<Sequence>},
    {"iterable", Is<Iterable>},
    {"callable", Is<Callable>},
    {"escaped", Is<Escaped>},
    {"sameas", SameAs},
    {"lower", CaseTest<IsLower, IsUpper>},
    {"upper", CaseTest<IsUpper, IsLower>},
    {"odd", Divisible<2, 1>},
    {"even", Divisible<2, 0>},
    {"divisibleby", Divisible<0, 0>},
    {"in", CompareTest<CompareOp::kIn>},
    {"eq", CompareTest<CompareOp::kEq>},
    {"equalto", CompareTest<CompareOp::kEq>},
    {"==", CompareTest<CompareOp::kEq>},
    {"ne", CompareTest<CompareOp::kNe>},
    {"!=", CompareTest<CompareOp::kNe>},
    {"lt", CompareTest<CompareOp::kLt>},
    {"lessthan", CompareTest<CompareOp::kLt>},
    {"<", CompareTest<CompareOp::kLt>},
    {"le", CompareTest<CompareOp::kLe>},
    {"<=", CompareTest<CompareOp::kLe>},
    {"gt", CompareTest<CompareOp::kGt>},
    {"greaterthan", CompareTest<CompareOp::kGt>},
    {">", CompareTest<CompareOp::kGt>},
    {"ge", CompareTest<CompareOp::kGe>},
    {">=", CompareTest<CompareOp::kGe>},
    {"filter", Exists<FindFilter>},
    {"test", Exists<FindTest>},
};

}  // namespace

Builtin FindTest(const std::string& name) { return FindIn(kTests, name); }

}  // namespace choir::tmpl
