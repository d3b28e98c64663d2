// `choir doctor`: looks at this machine and says what would keep Choir from running well, and what
// to do.
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>
#include <utility>

#include "common/config/options.h"
#include "kernels/cuda/module_loader.h"
#include "kernels/kernels.h"
#include "tools/choir/commands.h"
#include "tools/choir/run_file.h"
#include "tools/up/child.h"
#include "tools/up/cluster.h"
#include "worker/comm/nccl_collectives.h"

namespace choir {
namespace {

enum class Level { kGood, kWarning, kBad };

struct Finding {
  Level level;
  std::string what;
  std::string text;
  std::string remedy;  // empty when good
};

uint64_t AvailableMemory() {
  std::ifstream in("/proc/meminfo");
  std::string key, unit;
  uint64_t kib = 0;
  while (in >> key >> kib) {
    std::getline(in, unit);
    if (key == "MemAvailable:") return kib * 1024;
  }
  return 0;
}

Finding CheckCpu() {
  std::string paths;
  for (const std::string& p : CpuPaths()) paths += (paths.empty() ? "" : ", ") + p;
  const bool slow = CpuPaths().front() == "portable";
  return {slow ? Level::kWarning : Level::kGood, "cpu",
          fmt::format("{} cores; kernel paths, best first: {}", std::thread::hardware_concurrency(),
                      paths),
          slow ? "this CPU has neither AVX2 nor AVX-512: expect a tenth of the speed" : ""};
}

// As a worker that takes this card would find it (worker/backend.h).
Finding CheckCard(const cuda::Module& module, int32_t card) {
  const StatusOr<cuda::DeviceInfo> info = UsableCard(module, card);
  if (!info.ok()) {
    const bool silent = absl::IsUnavailable(info.status());
    return {Level::kWarning, "gpu", "workers do not compute on it: " + MessageOf(info.status()),
            silent ? "see the kernel log for Xid errors"
                   : "or leave it out of CUDA_VISIBLE_DEVICES, or let the CPU compute"};
  }
  return {Level::kGood, "gpu",
          fmt::format("cuda:{} ({}), {:.0f} GiB; the module has kernels for {}; workers compute on "
                      "it with --device cuda{}",
                      card, info->name, static_cast<double>(info->memory_bytes) / (1 << 30),
                      module.architectures,
                      HasHopperKernels(module, *info)
                          ? "; they check those for Hopper as they start (--cuda-kernels)"
                          : ""),
          ""};
}

std::vector<Finding> CheckGpus() {
  constexpr int32_t kCardsMax = 16;  // that are told one by one
  const auto module = OpenUsableCudaModule(DefaultCudaModule());
  if (!module.ok()) {
    const std::string why = "the CPU computes: " + MessageOf(module.status());
    if (!std::filesystem::exists("/dev/nvidiactl")) return {{Level::kGood, "gpu", why, ""}};
    return {{Level::kWarning, "gpu", "an NVIDIA GPU is here, but " + why,
             "see what the message says after the colon"}};
  }
  int32_t cards = 0;
  char detail[256] = {};
  (void)(*module)->device.probe(&cards, detail, sizeof detail);
  std::vector<Finding> findings;
  for (int32_t card = 0; card < std::min(cards, kCardsMax); ++card) {
    findings.push_back(CheckCard(**module, card));
  }
  if (cards > kCardsMax) {
    findings.push_back({Level::kGood, "gpu",
                        fmt::format("{} more cards were not looked at", cards - kCardsMax), ""});
  }
  return findings;
}

// Of machines whose GPUs can be used: how rows of experts get from one to the other.
std::vector<Finding> CheckNccl() {
  const auto module = OpenUsableCudaModule(DefaultCudaModule());
  if (!module.ok() || (*module)->nccl.open == nullptr) return {};
  int32_t version = 0;
  const char* error = (*module)->nccl.open(&version);
  if (error == nullptr) {
    return {{Level::kGood, "nccl", NcclVersion(version) + " joins the GPUs of a group", ""}};
  }
  int32_t cards = 0;
  char detail[256] = {};
  (void)(*module)->device.probe(&cards, detail, sizeof detail);
  return {{cards > 1 ? Level::kWarning : Level::kGood, "nccl",
           fmt::format("ranks on GPUs exchange through the host's memory: {}", error),
           cards > 1 ? "the GPUs of a group are joined by NCCL 2.28 or newer (libnccl2)" : ""}};
}

Finding CheckMemory() {
  const uint64_t available = AvailableMemory();
  const bool low = available < (uint64_t{4} << 30);
  return {low ? Level::kWarning : Level::kGood, "memory",
          fmt::format("{:.1f} GiB available", static_cast<double>(available) / (1 << 30)),
          low ? "the default model and its KV pools want about 3 GiB; lower worker.kv_bytes" : ""};
}

Finding CheckFiles() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const bool low = limit.rlim_cur < 4096;
  return {
      low ? Level::kWarning : Level::kGood, "open files", fmt::format("{} allowed", limit.rlim_cur),
      low ? "every client connection needs one: ulimit -n 65536, or LimitNOFILE= of the unit" : ""};
}

Finding CheckSharedMemory() {
  struct statvfs info {};
  if (statvfs("/dev/shm", &info) != 0)
    return {Level::kBad, "shared memory", "/dev/shm is not mounted",
            "ranks of one host exchange through it: mount -t tmpfs tmpfs /dev/shm"};
  const double mib =
      static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize) / (1 << 20);
  const bool low = mib < 64;
  return {low ? Level::kBad : Level::kGood, "shared memory",
          fmt::format("/dev/shm has {:.0f} MiB free", mib),
          low ? "a pair of ranks needs 8 MiB: give the container more (--shm-size, or a memory "
                "emptyDir)"
              : ""};
}

Finding CheckPorts() {
  std::string taken;
  for (const int port : {8080, 7070, 7100, 7101, 9080, 9070, 9100, 9101}) {
    if (!PortIsFree("127.0.0.1:" + std::to_string(port)))
      taken += (taken.empty() ? "" : " ") + std::to_string(port);
  }
  if (taken.empty()) return {Level::kGood, "ports", "the default ports are free", ""};
  return {Level::kWarning, "ports", "taken: " + taken,
          "choir up uses free ones for all but 8080: choose with --listen"};
}

Finding CheckState() {
  const std::string dir = DefaultStateDir();
  std::filesystem::path at = dir;
  while (!at.empty() && !std::filesystem::exists(at)) at = at.parent_path();
  const bool writable = access(at.c_str(), W_OK) == 0;
  return {writable ? Level::kGood : Level::kBad, "state directory",
          dir + (writable ? " can be written" : " cannot be written"),
          writable ? "" : "choose another with --state or XDG_STATE_HOME"};
}

// The lines that a program prints on stderr, without its name in front; none when it is content.
std::vector<std::string> Complaints(const std::vector<std::string>& argv) {
  std::string log = (std::filesystem::temp_directory_path() / "choir-doctor-XXXXXX").string();
  const int fd = mkstemp(log.data());
  if (fd < 0) return {"no temporary file can be made"};
  close(fd);
  auto child = Child::Spawn(argv, log);
  const int ended = child.ok() ? child->Wait() : 0;
  std::vector<std::string> lines;
  std::ifstream in(log);
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(": ");
    lines.push_back(colon == std::string::npos ? line : line.substr(colon + 2));
  }
  unlink(log.c_str());
  if (!child.ok()) return {MessageOf(child.status())};
  if (WIFEXITED(ended) && WEXITSTATUS(ended) == 0) return {};
  if (lines.empty()) lines.push_back(argv[0] + ": " + DescribeWaitStatus(ended));
  return lines;
}

// Each part checks its own section of the file: a part that runs reads no other.
std::vector<Finding> CheckConfig(const std::string& file) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string bin = self.parent_path().string() + "/choir-";
  const std::pair<const char*, std::vector<std::string>> parts[] = {{"up", {self.string(), "up"}},
                                                                    {"router", {bin + "router"}},
                                                                    {"worker", {bin + "worker"}},
                                                                    {"gateway", {bin + "gateway"}}};
  std::set<std::string> told;  // what all of them find is said once
  std::vector<Finding> findings;
  for (const auto& [section, program] : parts) {
    std::vector<std::string> argv = program;
    argv.insert(argv.end(), {"--config", file, "--check-section"});
    std::string text;
    const std::vector<std::string> complaints = Complaints(argv);
    for (const std::string& line : complaints) {
      if (!told.insert(line).second) continue;
      text += (text.empty() ? "" : "; ") + line;
    }
    const bool good = complaints.empty();
    if (!good && text.empty()) text = "what is said of the sections above";
    findings.push_back({good ? Level::kGood : Level::kBad, std::string("section ") + section,
                        good ? "nothing is wrong with it by itself" : text,
                        good ? "" : "correct the file; --help of its program lists the keys"});
  }
  return findings;
}

}  // namespace

int RunDoctor(int argc, const char* const* argv) {
  bool json = false;
  std::string config;
  OptionSet options("choir doctor", "Checks this machine and says what to do.", "");
  options.Add(&json, {.flag = "--json", .help = "print JSON"});
  options.Add(&config, {.flag = "--config",
                        .help = "also check this configuration file, the sections of all parts"});
  if (const auto code = options.Parse(argc, argv)) return *code;
  std::vector<Finding> findings = {CheckCpu(),          CheckMemory(), CheckFiles(),
                                   CheckSharedMemory(), CheckPorts(),  CheckState()};
  for (Finding& finding : CheckGpus()) findings.push_back(std::move(finding));
  for (Finding& finding : CheckNccl()) findings.push_back(std::move(finding));
  if (!config.empty()) {
    for (Finding& finding : CheckConfig(config)) findings.push_back(std::move(finding));
  }
  static constexpr const char* kNames[] = {"good", "warning", "bad"};
  bool bad = false;
  auto list = nlohmann::ordered_json::array();
  for (const Finding& f : findings) {
    bad |= f.level == Level::kBad;
    const char* level = kNames[static_cast<int>(f.level)];
    list.push_back({{"level", level}, {"check", f.what}, {"text", f.text}, {"remedy", f.remedy}});
    if (!json)
      std::printf("%-8s %-16s %s\n%s", level, f.what.c_str(), f.text.c_str(),
                  f.remedy.empty() ? "" : ("         -> " + f.remedy + "\n").c_str());
  }
  if (json) std::printf("%s\n", list.dump(2).c_str());
  return bad ? 1 : 0;
}

}  // namespace choir
