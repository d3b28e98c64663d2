// What commands share that run a model in this process, without servers: kernels, weights, ranks as
// threads. Main thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/config/options.h"
#include "kernels/kernels.h"
#include "worker/comm/collectives.h"
#include "worker/model/model.h"

namespace choir {

struct OfflineOptions {
  std::string model_dir;
  std::string dtype = "auto";
  std::string quant = "none";
  std::string cpu = "auto";  // a CPU path, or "reference"
  int64_t ranks = 1;         // expert-parallel ranks, as threads
  int64_t threads = 0;       // in all; 0: one a core
};

// --model, --dtype, --quant, --cpu, --ranks, --threads.
void AddOfflineOptions(OptionSet* set, OfflineOptions* options);

struct OfflineModel {
  std::unique_ptr<KernelSet> kernels;
  std::shared_ptr<const LoadedModel> loaded;
  int ranks = 1;
  int threads_per_rank = 1;
};

// Shows progress on stderr when that is a terminal.
StatusOr<OfflineModel> LoadOffline(const OfflineOptions& options);

// Calls fn once a rank, each on its own thread, and waits. The first error aborts the others' waits
// and is returned.
Status RunOfflineRanks(int ranks, const std::function<Status(Collectives* collectives)>& fn);

// A JSON list of token ids, each in [0, vocab); at least one.
StatusOr<std::vector<int32_t>> ReadTokenIds(const std::string& path, int64_t vocab);

// "choir: MESSAGE" on stderr; returns the exit code 1.
int Complain(const Status& status);

}  // namespace choir
