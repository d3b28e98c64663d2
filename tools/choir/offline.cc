#include "tools/choir/offline.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/base/print_error.h"
#include "common/files/json_file.h"
#include "common/files/read_file.h"
#include "worker/comm/local_collectives.h"

namespace choir {
namespace {

constexpr int64_t kRanksMax = 64;
constexpr int64_t kThreadsMax = 256;
constexpr size_t kIdsFileMaxBytes = size_t{64} << 20;

StatusOr<std::unique_ptr<KernelSet>> KernelsFor(const std::string& cpu) {
  if (cpu == "reference") return MakeReferenceKernels();
  return MakeCpuKernels(cpu);
}

void ShowProgress(int64_t done, int64_t total) {
  constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
  std::fprintf(stderr, "\rloading %.2f of %.2f GiB%s", static_cast<double>(done) / kGiB,
               static_cast<double>(total) / kGiB, done >= total ? "\n" : "");
}

}  // namespace

void AddOfflineOptions(OptionSet* set, OfflineOptions* o) {
  set->Add(&o->model_dir, {.flag = "--model", .help = "directory of the model", .required = true});
  set->AddChoice(&o->dtype,
                 {.flag = "--dtype", .help = "what to compute with; auto: what the files hold"},
                 {"auto", "f32", "bf16"});
  set->AddChoice(&o->quant,
                 {.flag = "--quant", .help = "weight quantization; none is built yet but 'none'"},
                 {"none"});
  set->Add(&o->cpu, {.flag = "--cpu", .help = "CPU path (auto: the best), or reference"});
  set->Add(&o->ranks, {.flag = "--ranks", .help = "expert-parallel ranks, as threads"}, 1,
           kRanksMax);
  set->Add(&o->threads, {.flag = "--threads", .help = "compute threads in all; 0: one a core"}, 0,
           kThreadsMax);
}

StatusOr<OfflineModel> LoadOffline(const OfflineOptions& options) {
  OfflineModel model;
  CHOIR_ASSIGN_OR_RETURN(model.kernels, KernelsFor(options.cpu));
  LoadOptions load{.model_dir = options.model_dir, .dtype = options.dtype};
  if (isatty(STDERR_FILENO) != 0) load.progress = ShowProgress;
  CHOIR_ASSIGN_OR_RETURN(model.loaded, LoadModel(load, *model.kernels));
  model.ranks = static_cast<int>(options.ranks);
  const int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  const int64_t threads = options.threads > 0 ? options.threads : std::min(cores, kThreadsMax);
  model.threads_per_rank = static_cast<int>(std::max<int64_t>(threads / options.ranks, 1));
  return model;
}

Status RunOfflineRanks(int ranks, const std::function<Status(Collectives*)>& fn) {
  std::vector<std::unique_ptr<Collectives>> collectives;
  if (ranks == 1) {
    collectives.push_back(MakeSingleCollectives(1));
  } else {
    collectives = MakeLocalCollectives(ranks, 1, {});
  }
  std::mutex mutex;
  Status first;  // guarded by mutex
  std::vector<std::jthread> threads;
  for (const auto& own : collectives) {
    threads.emplace_back([&, rank = own.get()] {
      pthread_setname_np(pthread_self(), ("rank-" + std::to_string(rank->rank())).c_str());
      const Status status = fn(rank);
      if (status.ok()) return;
      {
        const std::lock_guard lock(mutex);
        first.Update(status);
      }
      rank->Abort(status);
    });
  }
  threads.clear();
  return first;
}

StatusOr<std::vector<int32_t>> ReadTokenIds(const std::string& path, int64_t vocab) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    return NotFound("--ids {}: is missing; give a file with a JSON list of token ids", path);
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kIdsFileMaxBytes));
  CHOIR_ASSIGN_OR_RETURN(const nlohmann::json list, ParseJson(text, path));
  if (!list.is_array() || list.empty()) {
    return InvalidArgument("{}: must be a JSON list of at least one token id", path);
  }
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const nlohmann::json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(vocab)) {
      return InvalidArgument("{}: element {} is not a token id from 0 to {}", path, ids.size(),
                             vocab - 1);
    }
    ids.push_back(static_cast<int32_t>(id.get<uint64_t>()));
  }
  return ids;
}

int Complain(const Status& status) {
  PrintError("choir", status);
  return 1;
}

}  // namespace choir
