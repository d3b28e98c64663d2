// Messages as one line. What files and peers say ends up in them: control characters are shown as
// escapes, so that a message cannot steer a terminal or look like two. Any thread.
#pragma once

#include <string>
#include <string_view>

#include "common/base/status.h"

namespace choir {

std::string OneLine(std::string_view text);

// "PROGRAM: MESSAGE" on stderr.
void PrintError(std::string_view program, const Status& status);

}  // namespace choir
