// The default model: SmolLM2-135M-Instruct, rearranged into a mixture of experts that computes the
// same function (expert_split.h), written as a Hugging Face directory. Deterministic: the same
// source gives the same bytes on every machine, and the known digest is checked. Blocking; one
// thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "common/base/status.h"
#include "tools/model/expert_split.h"
#include "tools/model/gguf.h"

namespace choir {

struct DemoOptions {
  std::string out;                // directory to make; "": DemoDirectory()
  std::string source;             // .whl or .gguf; "": fetched by pip
  std::string arch = "glm4_moe";  // or "llama", the dense original
  int32_t spread = 2;             // groups that a copy of the experts fills: 1, 2, 4
  std::function<void(std::string_view line)> note;  // progress for people
};

// ${CHOIR_CACHE:-${XDG_CACHE_HOME:-~/.cache}/choir}/models/demo, with the variant in the name when
// it is not the default one.
StatusOr<std::string> DemoDirectory(const DemoOptions& options);

// Makes the directory, or finds it complete (then quick, and `source` is not read). It appears
// whole or not at all. A directory that this function did not make is never touched. Returns its
// path.
StatusOr<std::string> MakeDemoModel(const DemoOptions& options);

// OK when `directory` holds the complete model of these options: its manifest names the known
// bytes, all sizes match, and so do the digests of all but the weights.
Status CheckDemoModel(const std::string& directory, const DemoOptions& options);

// The conversion alone, of any llama GGUF that fits: writes all files into the existing `directory`
// and returns the SHA-256 of model.safetensors. `split` (its spread) is null for the dense model.
StatusOr<std::string> ConvertGguf(const Gguf& gguf, const ExpertSplit* split,
                                  const std::string& directory);

}  // namespace choir
