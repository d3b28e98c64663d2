// Filters and tests by name. Called with the value as `self`; nullptr: none of that name.
#pragma once

#include <string>

#include "router/text/template/runtime.h"

namespace choir::tmpl {

struct NamedBuiltin {
  const char* name;
  Builtin call;
};

Builtin FindFilter(const std::string& name);
Builtin FindTest(const std::string& name);

// The parts of FindFilter, a file each.
Builtin FindTextFilter(const std::string& name);
Builtin FindNumberFilter(const std::string& name);
Builtin FindListFilter(const std::string& name);
Builtin FindSelectFilter(const std::string& name);

template <size_t N>
Builtin FindIn(const NamedBuiltin (&table)[N], const std::string& name) {
  for (const NamedBuiltin& entry : table) {
    if (name == entry.name) return entry.call;
  }
  return nullptr;
}

// "a.b.0": an item of an item, as the attribute arguments of filters name it. `absent` replaces
// undefined steps unless it is kAbsent.
StatusOr<Value> GetPath(Runtime& rt, Value item, const Value& path, const Value& absent);

// What is wrong with a generator's arguments shows when it is first asked for an item.
template <Builtin kFilter>
StatusOr<Value> Lazy(Runtime& rt, const Value& self, const Args& args) {
  const StatusOr<Value> result = kFilter(rt, self, args);
  if (result.ok()) return result;
  return rt.Iterator(0, [status = result.status()](Value*) -> StatusOr<bool> { return status; });
}

}  // namespace choir::tmpl
