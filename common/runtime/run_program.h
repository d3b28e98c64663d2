// Runs another program and waits for it. Any thread; blocks until the program has ended.
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"

namespace choir {

enum class ProgramOutput { kStdout, kStderr };

// The exit code (128 + signal when killed) of argv[0], found on PATH. Its stdout goes to ours, or
// to our stderr. Fails when it cannot be started.
StatusOr<int> RunProgram(const std::vector<std::string>& args, ProgramOutput output);

}  // namespace choir
