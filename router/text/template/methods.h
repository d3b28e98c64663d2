// The methods of strings, dicts, lists and numbers that templates may call.
#pragma once

#include <string>

#include "router/text/template/value.h"

namespace choir::tmpl {

Builtin FindMethod(const Value& object, const std::string& name);
// Exists in Python but would change the object, which the sandbox forbids.
bool IsMutatingMethod(const Value& object, const std::string& name);

Builtin FindStringMethod(const std::string& name);
Builtin FindStringQuery(const std::string& name);  // the methods that answer a question

}  // namespace choir::tmpl
