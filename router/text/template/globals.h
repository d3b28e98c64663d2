// The functions every template can call: range, namespace, dict, raise_exception, strftime_now.
#pragma once

#include <string>

#include "router/text/template/value.h"

namespace choir::tmpl {

// nullptr: none of that name.
Builtin FindGlobal(const std::string& name);

}  // namespace choir::tmpl
