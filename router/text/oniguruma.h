// Regular expressions of tokenizer.json are Oniguruma's (Ruby syntax); ours are PCRE2's. Same look,
// other meaning here and there: this rewrites one into the other. Pure.
#pragma once

#include <string>
#include <string_view>

#include "common/base/status.h"

namespace choir::text {

// The pattern for PCRE2 with UTF, UCP and MULTILINE (Ruby's ^ and $ always match at lines).
// InvalidArgument names a construct that has no equal.
//   \s \S    exactly White_Space (PCRE2's also has U+180E)   \w \W \b \B   with marks and Pc
//   \h \H    hexadecimal digits            \v   U+000B       \uHHHH        \x{HHHH}
//   \p{Han}  the script, not its extensions                  [a&&[^b]]     intersection, nested
//   sets a{2}+    (?:a{2})+, not possessive     a{,2}  a{0,2}     (?m) "dot matches newline"
StatusOr<std::string> OnigurumaToPcre2(std::string_view pattern);

}  // namespace choir::text
