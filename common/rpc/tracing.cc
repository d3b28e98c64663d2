#include "common/rpc/tracing.h"

#include <random>

namespace choir {
namespace {

uint64_t Random64() {
  thread_local std::mt19937_64 random = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  return random();
}

}  // namespace

Tracing::Tracing(const TraceOptions& options, const std::string& part, const std::string& instance,
                 Metrics* metrics)
    : exporter_(OtlpExporter::Make(options, {"choir-" + part, instance}, metrics)),
      tracer_(exporter_.get(), options.ratio, &Clock::Real(), Random64) {}

}  // namespace choir
