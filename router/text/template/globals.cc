#include "router/text/template/globals.h"

#include <algorithm>
#include <ctime>

#include "router/text/template/filters.h"
#include "router/text/template/ops.h"

namespace choir::tmpl {
namespace {

constexpr int64_t kRangeMax = 100'000;  // Jinja's sandbox has the same

StatusOr<Value> RangeFunction(Runtime& rt, const Value&, const Args& args) {
  if (!args.named.empty()) return InvalidArgument("range() takes no keyword arguments");
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("range", args, {"start", "stop", "step"}, 1));
  CHOIR_ASSIGN_OR_RETURN(int64_t start, IntArg(a[0], "range()'s argument", 0));
  CHOIR_ASSIGN_OR_RETURN(int64_t stop, IntArg(a[1], "range()'s argument", 0));
  CHOIR_ASSIGN_OR_RETURN(const int64_t step, IntArg(a[2], "range()'s argument", 1));
  if (a[1].Is(Kind::kAbsent)) stop = std::exchange(start, 0);
  if (step == 0) return InvalidArgument("range() arg 3 must not be zero");
  const __int128 distance = static_cast<__int128>(stop) - start;
  __int128 count = step > 0 ? (distance + step - 1) / step : (distance + step + 1) / step;
  if ((step > 0) != (distance > 0) || distance == 0) count = 0;
  if (count > kRangeMax) {
    return InvalidArgument("Range too big: at most {} numbers are allowed", kRangeMax);
  }
  CHOIR_RETURN_IF_ERROR(rt.FitsValues(static_cast<uint64_t>(count)));
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < static_cast<int64_t>(count); ++i)
    items.push_back(Value::Int(start + i * step));
  std::string label = step == 1 ? fmt::format("range({}, {})", start, stop)
                                : fmt::format("range({}, {}, {})", start, stop, step);
  return rt.List(std::move(items), ListType::kRange, std::move(label));
}

// dict(mapping or pairs, name=value, ...).
StatusOr<Value> DictFunction(Runtime& rt, const Value&, const Args& args) {
  if (args.positional.size() > 1) return InvalidArgument("dict expected at most 1 argument");
  auto dict = rt.NewDict();
  if (!args.positional.empty() && args.positional[0].Is(Kind::kDict)) {
    for (const auto& [key, value] : args.positional[0].Dict().entries) {
      CHOIR_RETURN_IF_ERROR(rt.Step());
      dict->Set(key, value);
    }
  } else if (!args.positional.empty()) {
    CHOIR_ASSIGN_OR_RETURN(const auto pairs, ToVector(rt, args.positional[0]));
    for (const Value& pair : pairs) {
      CHOIR_ASSIGN_OR_RETURN(const auto two, ToVector(rt, pair));
      if (two.size() != 2) return InvalidArgument("dict() needs pairs, got {} values", two.size());
      if (!IsHashable(two[0])) return InvalidArgument("unhashable type: '{}'", TypeName(two[0]));
      dict->Set(two[0], two[1]);
    }
  }
  for (const auto& [name, value] : args.named) dict->Set(rt.String(name), value);
  return rt.Finish(std::move(dict));
}

StatusOr<Value> NamespaceFunction(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const Value dict, DictFunction(rt, self, args));
  const Value space = rt.NewNamespace();
  for (const auto& [key, value] : dict.Dict().entries) {
    if (!key.IsString()) return InvalidArgument("the names in a namespace must be strings");
    if (key.Text().starts_with('_')) {
      return InvalidArgument("a namespace cannot have the attribute '{}'", key.Text());
    }
    space.Namespace().fields.emplace_back(key.Text(), value);
    space.Namespace().Charge(sizeof(Value) + 64);
  }
  return space;
}

// What is used between parts: nothing before the first one, then the separator.
StatusOr<Value> JoinerCall(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("joiner", args, {}).status());
  Value* used = self.Namespace().Find("used");
  const bool first = !Truth(*used);
  *used = Value::Bool(true);
  return first ? rt.String("") : *self.Namespace().Find("sep");
}

StatusOr<Value> JoinerFunction(Runtime& rt, const Value&, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("joiner", args, {"sep"}));
  const Value state = rt.NewNamespace();
  state.Namespace().fields = {{"sep", a[0].Is(Kind::kAbsent) ? rt.String(", ") : a[0]},
                              {"used", Value::Bool(false)}};
  return rt.Function("joiner", JoinerCall, state);
}

// Its items in turn, without end.
class Cycler : public LoopObject {
 public:
  Cycler(Meter* meter, std::vector<Value> items) : LoopObject(meter), items_(std::move(items)) {
    for (const Value& item : items_) depth = std::max(depth, item.Depth() + 1);
    Charge(sizeof(Cycler) + items_.size() * sizeof(Value));
  }
  StatusOr<Value> Attribute(Runtime& rt, const std::string& name) override {
    if (name == "current") return items_[at_];
    if (name != "next" && name != "reset") return Value::Absent();
    return rt.Function(name, name == "next" ? Next : Reset,
                       Value::Of(Kind::kLoop, shared_from_this()));
  }

 private:
  static StatusOr<Value> Next(Runtime&, const Value& self, const Args&) {
    auto& cycler = static_cast<Cycler&>(self.Loop());
    const Value item = cycler.items_[cycler.at_];
    cycler.at_ = (cycler.at_ + 1) % cycler.items_.size();
    return item;
  }
  static StatusOr<Value> Reset(Runtime&, const Value& self, const Args&) {
    static_cast<Cycler&>(self.Loop()).at_ = 0;
    return Value::None();
  }

  const std::vector<Value> items_;
  size_t at_ = 0;
};

StatusOr<Value> CyclerFunction(Runtime& rt, const Value&, const Args& args) {
  if (!args.named.empty()) return InvalidArgument("cycler() takes no keyword arguments");
  if (args.positional.empty()) return InvalidArgument("at least one item has to be provided");
  const auto cycler = std::make_shared<Cycler>(rt.meter(), args.positional);
  if (cycler->depth > kValueDepthMax) {
    return InvalidArgument("values nest deeper than {}", kValueDepthMax);
  }
  return Value::Of(Kind::kLoop, cycler);
}

StatusOr<Value> RaiseException(Runtime& rt, const Value&, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("raise_exception", args, {"message"}, 1));
  CHOIR_ASSIGN_OR_RETURN(const std::string message, ToText(rt, a[0]));
  rt.raised = true;
  return InvalidArgument("{}", message);
}

std::string WithPythonFields(const std::string& format, int64_t microseconds) {
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    const char next = format[i] == '%' && i + 1 < format.size() ? format[i + 1] : '\0';
    if (next == 'f') out += fmt::format("{:06}", microseconds);
    if (next == 'f' || next == 'z' || next == 'Z') {  // the time has no zone
      ++i;
    } else {
      out.push_back(format[i]);
      if (next != '\0') out.push_back(format[++i]);
    }
  }
  return out;
}

StatusOr<Value> StrftimeNow(Runtime& rt, const Value&, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("strftime_now", args, {"format"}, 1));
  if (!a[0].IsString()) return InvalidArgument("strftime_now needs a format");
  if (a[0].Text().size() > 1024) return InvalidArgument("strftime_now: the format is too long");
  const int64_t micros =
      std::chrono::duration_cast<std::chrono::microseconds>(rt.clock().Wall().time_since_epoch())
          .count();
  const auto seconds = static_cast<time_t>(micros / 1'000'000);
  std::tm local{};
  localtime_r(&seconds, &local);
  const std::string format = WithPythonFields(a[0].Text(), micros % 1'000'000) + "!";
  std::string out(65536, '\0');  // the mark at the end tells an empty result from a failure
  const size_t n = std::strftime(out.data(), out.size(), format.c_str(), &local);
  if (n == 0) return InvalidArgument("strftime_now: the result is too long");
  out.resize(n - 1);
  return rt.String(std::move(out));
}

constexpr NamedBuiltin kGlobals[] = {
    {"range", RangeFunction},     {"dict", DictFunction},     {"namespace", NamespaceFunction},
    {"joiner", JoinerFunction},   {"cycler", CyclerFunction}, {"raise_exception", RaiseException},
    {"strftime_now", StrftimeNow}};

}  // namespace

Builtin FindGlobal(const std::string& name) { return FindIn(kGlobals, name); }

}  // namespace choir::tmpl
