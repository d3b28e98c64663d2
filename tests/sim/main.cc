// choir-sim: simulations of a cluster by seed. A failing seed is printed with what did not hold;
// `--seed N --verbose` plays it again.
#include <yaml-cpp/yaml.h>

#include <cstdio>
#include <string>

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/config/options.h"
#include "router/identity/keys.h"
#include "tests/sim/capacity.h"
#include "tests/sim/sim_world.h"

namespace choir::sim {
namespace {

// Short enough to act on what a model without sense says.
constexpr char kContentRules[] = R"(
- {name: word, pattern: 'sings of', on: input, with: "[WORDS]"}
- {name: pair, pattern: '[a-m]{2,5}', on: output, with: "<>"}
- {name: digit, pattern: '[0-9]', on: output, action: refuse, tenants: [interactive]}
- {name: city, pattern: '東京 東京', on: input, action: refuse, tenants: [bulk]}
)";

}  // namespace

const RouterStatics& Statics() {
  static const RouterStatics* const kStatics = [] {
    auto model = ModelText::Load(
        std::string(CHOIR_SOURCE_DIR) + "/tests/golden/checkpoints/tiny_glm4_moe", 16);
    CHOIR_CHECK(model.ok());
    std::vector<KeyRecord> keys;
    const auto add = [&keys](const std::string& name, std::string_view secret,
                             std::optional<AdmissionClass> admission_class) {
      KeyRecord& key = keys.emplace_back();
      key.id = key.tenant = name;
      key.hash = Sha256Of(secret);
      key.rights.admission_class = admission_class;
    };
    add(kTenant, kSecret, std::nullopt);
    for (const AdmissionClass c : kAdmissionClasses) {
      add(AdmissionClassName(c), kClassSecrets[static_cast<size_t>(c)], c);
    }
    auto* statics = new RouterStatics;
    statics->model = model->release();
    statics->identity = new Identity(keys);
    auto content = ContentRuleBook::Parse(YAML::Load(kContentRules));
    CHOIR_CHECK(content.ok());
    statics->content = std::make_shared<const ContentRuleBook>(*std::move(content));
    // One for all: its hundreds of series would be most of what a run costs.
    statics->metrics = new RouterMetrics(new Metrics("router"), "sim");
    return statics;
  }();
  return *kStatics;
}

namespace {

int Main(int argc, char** argv) {
  int64_t seed = 0, first = 1, seeds = 100, capacity = 0, ranks = 10'000;
  bool verbose = false, calm = false;
  OptionSet set("choir-sim", "Plays clusters under virtual time, one a seed.", "sim");
  set.Add(&seed, {.flag = "--seed", .help = "this one only"}, 0, INT64_MAX);
  set.Add(&first, {.flag = "--first", .help = "first of --seeds"}, 1, INT64_MAX / 2);
  set.Add(&seeds, {.flag = "--seeds", .help = "how many"}, 1, 1'000'000'000);
  set.Add(&verbose, {.flag = "--verbose", .help = "say what happens when"});
  set.Add(&calm, {.flag = "--calm", .help = "nothing happens"});
  set.Add(&capacity, {.flag = "--capacity", .help = "requests open at once; the cost of each"}, 0,
          10'000'000);
  set.Add(&ranks, {.flag = "--ranks", .help = "of --capacity"}, 1, 100'000);
  if (const auto code = set.Parse(argc, argv)) return *code;
  CHOIR_CHECK(InitLog("sim", verbose ? "info" : "off").ok());
  if (capacity > 0) {
    RunCapacity(
        {.ranks = static_cast<uint32_t>(ranks), .requests = static_cast<uint64_t>(capacity)});
    return 0;
  }
  if (seed != 0) {
    first = seed;
    seeds = 1;
  }
  WorldReport sum;
  int64_t failed = 0;
  for (int64_t s = first; s < first + seeds; ++s) {
    const WorldReport report =
        RunWorld({.seed = static_cast<uint64_t>(s), .calm = calm, .verbose = verbose});
    sum.requests += report.requests;
    sum.finished += report.finished;
    sum.failed += report.failed;
    sum.cancelled += report.cancelled;
    sum.resumes += report.resumes;
    sum.taken_up += report.taken_up;
    sum.events += report.events;
    sum.virtual_seconds += report.virtual_seconds;
    if (report.failures.empty()) continue;
    ++failed;
    std::printf("seed %lld:\n", static_cast<long long>(s));
    for (const std::string& what : report.failures) std::printf("  %s\n", what.c_str());
    std::fflush(stdout);
    if (failed == 10) break;
  }
  std::printf(
      "%lld seeds, %lld failed; %zu requests: %zu finished, %zu refused or failed as they may, %zu "
      "cancelled; %llu went on at another router, %llu after the gateway's death; %llu events in "
      "%.0f virtual seconds\n",
      static_cast<long long>(seeds), static_cast<long long>(failed), sum.requests, sum.finished,
      sum.failed, sum.cancelled, static_cast<unsigned long long>(sum.resumes),
      static_cast<unsigned long long>(sum.taken_up), static_cast<unsigned long long>(sum.events),
      sum.virtual_seconds);
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace choir::sim

int main(int argc, char** argv) { return choir::sim::Main(argc, argv); }
