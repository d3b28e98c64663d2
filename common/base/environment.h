// A variable of the process' environment. Any thread, as long as nobody changes the environment.
#pragma once

#include <cstdlib>
#include <string>

namespace choir {

// Empty: not set, or set to nothing.
inline std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace choir
