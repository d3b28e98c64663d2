// choir-gpu-check: what the card here allows, how near to it each kernel comes, and what follows.
// Each section is a process of its own, for an error of the device is sticky; tools/gpu_check runs
// them one after the other in bounded time. Exit codes: 0 the section passed, 1 it failed, 2 wrong
// use, 3 no GPU that can be used (and why).
#include <cstdio>
#include <deque>
#include <filesystem>
#include <fstream>
#include <string>

#include "common/config/options.h"
#include "common/files/write_file.h"
#include "kernels/cuda/module_loader.h"
#include "tools/gpu/limits.h"
#include "tools/gpu/must.h"
#include "tools/gpu/nccl_check.h"
#include "tools/gpu/op_times.h"
#include "tools/gpu/report.h"
#include "tools/gpu/slice.h"
#include "tools/gpu/sweep.h"
#include "tools/gpu/tables.h"

namespace choir::gpu {
namespace {

constexpr int kNoGpu = 3;

using Json = nlohmann::ordered_json;

struct Arguments {
  std::string section, out, part, module = DefaultCudaModule();
  bool small = false;          // shapes for an emulated card
  bool hopper_shapes = false;  // beside those
  bool no_early_starts = false;
  int64_t seed = 1;
  int64_t cases = 1'000'000;
  double seconds = 3600;
  std::string op;
  std::string rung;               // the fastest to take; empty: the fastest there is
  std::vector<std::string> skip;  // ops whose random shapes are left out
  RunFacts facts;
};

// What a section works with.
struct Opened {
  const cuda::Module* module = nullptr;
  cuda::DeviceInfo info;
  std::vector<const cuda::KernelTable*> tables;
  // Of tables without early starts, whose rows stand beside the others'.
  std::deque<std::string> names;
  std::deque<cuda::KernelTable> renamed;
};

void NameApart(Opened* o) {
  for (const cuda::KernelTable*& table : o->tables) {
    o->names.push_back(std::string(table->name) + ", apart");
    o->renamed.push_back(*table);
    o->renamed.back().name = o->names.back().c_str();
    table = &o->renamed.back();
  }
}

CardOptions CardOptionsOf(const Arguments& a) {
  CardOptions options;
  options.seed = static_cast<uint64_t>(a.seed);
  if (!a.small) return options;
  options.pool_bytes = 4099;
  options.flush_bytes = 64;
  options.workspace_bytes = size_t{1} << 20;
  options.case_ms = 0;
  options.runs_max = 1;
  return options;
}

MonoTime DeadlineOf(const Arguments& a) {
  return Clock::Real().Now() + std::chrono::milliseconds(static_cast<int64_t>(a.seconds * 1e3));
}

// Of a section that may be killed at any time: the file is whole, or the one before.
void Write(const Arguments& a, const std::string& name, const Json& json) {
  const std::string file = a.out + "/" + name + ".json";
  Must(WriteFileWhole(file, json.dump(2) + "\n", {.mode = 0644}), file);
}
void WritePart(const Arguments& a, const Json& json) {
  Write(a, a.part.empty() ? a.section : a.part, json);
}

// As far as they were measured; without a copy's rate there are no floors.
Limits ReadLimits(const Arguments& a) {
  std::ifstream in(a.out + "/limits.json");
  const Json limits = Json::parse(in, nullptr, false);
  return limits.is_discarded() ? Limits{} : LimitsOf(limits);
}

int Probe(const Arguments& a, const Opened& o) {
  std::printf("%s, compute capability %d.%d, %.0f GiB\n", o.info.name, o.info.major, o.info.minor,
              static_cast<double>(o.info.memory_bytes) / (1 << 30));
  if (a.out.empty()) return 0;
  std::filesystem::create_directories(a.out);
  std::vector<std::string> tables;
  for (const cuda::KernelTable* table : o.tables) tables.emplace_back(table->name);
  Write(a, "card",
        {{"name", o.info.name},
         {"compute_capability", fmt::format("{}.{}", o.info.major, o.info.minor)},
         {"memory_gib", static_cast<double>(o.info.memory_bytes) / (1 << 30)},
         {"processors", o.info.processors},
         {"driver_cuda",
          fmt::format("{}.{}", o.info.driver_version / 1000, o.info.driver_version % 1000 / 10)},
         {"module_cuda",
          fmt::format("{}.{}", o.info.runtime_version / 1000, o.info.runtime_version % 1000 / 10)},
         {"architectures", o.module->architectures},
         {"tables", tables}});
  return 0;
}

int MeasureCard(const Arguments& a, const Opened& o) {
  Card card(o.module->device, CardOptionsOf(a));
  LimitShapes shapes;
  if (a.small) shapes = {.copy_bytes = 4096, .sides = {16}, .products = {}};
  const Json limits = MeasureLimits(o.module->cublaslt, card, shapes,
                                    [&a](const Json& so_far) { WritePart(a, so_far); });
  std::printf("%s\n", limits.dump(1).c_str());
  return 0;
}

int TimeAllOps(const Arguments& a, const Opened& o) {
  Card card(o.module->device, CardOptionsOf(a));
  OpTimesOptions options{.limits = ReadLimits(a), .deadline = DeadlineOf(a)};
  if (a.small) options.shapes = BenchShapes::Small();
  options.progress = [&a](const Json& rows) { WritePart(a, rows); };
  (void)TimeOps(o.tables, o.module->cublaslt, card, options);
  return 0;
}

int SweepShapes(const Arguments& a, const Opened& o) {
  Card card(o.module->device, CardOptionsOf(a));
  SweepOptions options{.seed = static_cast<uint64_t>(a.seed),
                       .cases_max = a.cases,
                       .deadline = DeadlineOf(a),
                       .op = a.op,
                       .skip = a.skip,
                       .sizes = {}};
  if (a.small) options.sizes = SweepSizes::Small();
  options.sizes.hopper |= a.hopper_shapes;
  options.progress = [&a](const Json& so_far) { WritePart(a, so_far); };
  const Json told = Sweep(o.tables, card, options);
  for (const Json& line : told["lines"]) std::printf("%s\n", line.get<std::string>().c_str());
  return told["failures"].empty() ? 0 : 1;
}

int RunLayers(const Arguments& a, const Opened& o) {
  SliceOptions options = a.small ? SliceOptions::Small() : SliceOptions();
  options.deadline = DeadlineOf(a);
  options.early_starts = !a.no_early_starts;
  options.progress = [&a](const Json& so_far) { WritePart(a, so_far); };
  const Json told = RunSlice(o.module->device, *o.tables.back(), ReadLimits(a), options);
  for (const char* key : {"lines", "failures"}) {
    for (const Json& line : told[key]) std::printf("%s\n", line.get<std::string>().c_str());
  }
  return told["failures"].empty() ? 0 : 1;
}

// Ranks are forked, so this process does not open the module.
int CheckNcclRanks(const Arguments& a) {
  NcclCheckOptions options{.module = a.module};
  options.limit = std::chrono::milliseconds(static_cast<int64_t>(a.seconds * 1e3 / 2));
  if (a.small) options.play = {.rounds = 4, .ragged_bytes = 300, .large_bytes = 9000};
  Json told = {{"lines", Json::array()}, {"failures", Json::array()}, {"runs", Json::array()}};
  for (const int ranks : {2, 4}) {
    Json run = CheckNccl(ranks, options);
    if (run.contains("nothing")) {
      std::fprintf(stderr, "choir-gpu-check: nothing was checked: %s\n",
                   run.value("nothing", "").c_str());
      told["lines"].push_back("nothing was checked: " + run.value("nothing", ""));
      WritePart(a, told);
      return kNoGpu;
    }
    for (const char* key : {"lines", "failures"}) {
      for (const Json& line : run[key]) {
        std::printf("%s\n", line.get<std::string>().c_str());
        if (key == std::string("failures"))
          told["lines"].push_back("FAILED: " + line.get<std::string>());
        told[key].push_back(line);
      }
    }
    told["runs"].push_back(std::move(run));
    WritePart(a, told);
  }
  return told["failures"].empty() ? 0 : 1;
}

int Report(const Arguments& a) {
  const Json report = Merge(a.out, a.facts);
  Write(a, "gpu_check", report);
  std::ofstream(a.out + "/gpu_check.md") << MarkdownOf(report);
  std::printf("%s", SummaryOf(report).c_str());
  return 0;
}

struct Section {
  const char* name;
  const char* what;
  int (*run)(const Arguments&, const Opened&);
};

constexpr Section kSections[] = {
    {"probe", "says what card is here", Probe},
    {"limits", "measures a copy and cuBLASLt's products", MeasureCard},
    {"ops", "times every op of every table beside the limits", TimeAllOps},
    {"sweep", "compares tables at random shapes", SweepShapes},
    {"slice", "takes steps of eight layers of DeepSeek-V3", RunLayers},
};

int RunSection(const Section& section, const Arguments& a) {
  const auto opened = OpenUsableCudaModule(a.module);
  if (!opened.ok()) {
    std::fprintf(stderr, "choir-gpu-check: nothing was checked: %s\n",
                 MessageOf(opened.status()).c_str());
    return kNoGpu;
  }
  Opened o{.module = *opened};
  Must(o.module->device.use(0), "the card");
  Must(o.module->device.info(0, &o.info), "the card");
  o.module->device.allow_early_starts(!a.no_early_starts);
  o.tables = TablesOf(*o.module, o.info);
  o.tables = TablesUpTo(o.tables, *o.module, a.rung);
  if (o.tables.empty()) Fail("--rung: this card has no kernels " + a.rung);
  if (a.no_early_starts) NameApart(&o);
  return section.run(a, o);
}

std::optional<int> Read(int argc, char** argv, Arguments* a) {
  OptionSet options("choir-gpu-check",
                    "One section of tools/gpu_check, which checks and measures the GPU here.", "");
  std::vector<std::string> names = {"report", "nccl"};
  std::string all =
      "report: one JSON and Markdown file from what the others wrote; nccl: NCCL between processes "
      "on one card";
  for (const Section& s : kSections) {
    names.emplace_back(s.name);
    all += fmt::format("; {}: {}", s.name, s.what);
  }
  options.AddChoice(&a->section, {.flag = "SECTION", .help = all, .required = true}, names);
  options.Add(&a->out, {.flag = "OUT", .help = "folder of the results"});
  options.Add(&a->module, {.flag = "--module", .help = "the CUDA module"});
  options.Add(&a->small, {.flag = "--small", .help = "shapes for an emulated card"});
  options.Add(&a->hopper_shapes, {.flag = "--hopper-shapes",
                                  .help = "with --small: also shapes of the kernels for Hopper"});
  options.Add(&a->seed, {.flag = "--seed", .help = "of contents, and of the first random shape"}, 0,
              int64_t{1} << 60);
  options.Add(&a->cases, {.flag = "--cases", .help = "random shapes at most"}, 0, 1'000'000'000);
  options.Add(&a->seconds, {.flag = "--seconds", .help = "what has not begun by then is left out"},
              0, 86400);
  options.Add(&a->op, {.flag = "--op", .help = "only this op's random shapes"});
  options.AddChoice(&a->rung, {.flag = "--rung", .help = "leave out kernels above these"},
                    {"simple", "tensor", "hopper"});
  options.Add(&a->no_early_starts,
              {.flag = "--no-early-starts",
               .help = "no kernel starts before the one ahead of it has ended"});
  options.Add(&a->part, {.flag = "--part", .help = "the name of its file in OUT: the section's"});
  options.Add(&a->skip, {.flag = "--skip-op", .help = "not this op's random shapes"});
  options.Add(&a->facts.commit, {.flag = "--commit", .help = "for the report"});
  options.Add(&a->facts.driver, {.flag = "--driver", .help = "for the report"});
  options.Add(&a->facts.date, {.flag = "--date", .help = "for the report"});
  options.AddCheck([a]() -> Status {
    if (a->section == "probe" || !a->out.empty()) return {};
    return InvalidArgument("OUT: give the folder of the results");
  });
  return options.Parse(argc, argv);
}

int Main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // a section that is killed has said all
  Arguments a;
  if (const auto code = Read(argc, argv, &a)) return *code;
  if (a.section == "report") return Report(a);
  if (a.section == "nccl") return CheckNcclRanks(a);
  for (const Section& s : kSections) {
    if (a.section == s.name) return RunSection(s, a);
  }
  return 2;
}

}  // namespace
}  // namespace choir::gpu

int main(int argc, char** argv) { return choir::gpu::Main(argc, argv); }
