// The version and commit this binary was built from, as `--version` and choir_build_info show it.
#pragma once

namespace choir {
extern const char kVersion[];  // "0.1.0"
// The wire version of all internal streams; parts with different ones refuse each other by name.
inline constexpr unsigned kProtocolVersion = 1;
}  // namespace choir
