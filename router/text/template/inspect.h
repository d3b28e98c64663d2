// What a template expects of its input, read off the parsed template.
#pragma once

#include "router/text/template/ast.h"

namespace choir::tmpl {

// Whether the template loops over the parts of a message's content: a `for` over `x.content`,
// x['content'], a variable `content`, or a variable set to one of those.
bool IteratesContent(const Program& program);

}  // namespace choir::tmpl
