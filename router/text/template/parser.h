// Tokens to a Program, with Jinja's grammar and precedences. Unknown tags, and unknown filters and
// tests where Jinja finds them at compile time (outside conditional code), are errors here.
#pragma once

#include <memory>
#include <string>

#include "router/text/template/ast.h"

namespace choir::tmpl {

constexpr int kParseDepthMax = 100;  // nesting of blocks and brackets
constexpr int kParseChainMax = 100;  // postfixes, filters and signs in a row

// InvalidArgument with the line.
StatusOr<std::unique_ptr<const Program>> Parse(const std::string& source);

}  // namespace choir::tmpl
