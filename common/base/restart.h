// The end of a process that only a new start can help: what it waits for, a device or a library
// that it does not control, does not come back.
#pragma once

#include <string>

namespace choir {

// Says why in the log, and exits with 1 without destructors, which would wait for the same. Any
// thread.
[[noreturn]] void EndForRestart(const std::string& why);

}  // namespace choir
