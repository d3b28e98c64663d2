// What happened to a sequence from its submission to its end: a span when its request is traced, a
// log line at debug. Kept only of those that are wanted by either. The hub's mutex guards it.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "choir/v1/worker.pb.h"
#include "common/trace/tracer.h"
#include "worker/engine/types.h"

namespace choir {

class SequenceTraces {
 public:
  // `tracer` null: nothing is traced; else it outlives this. `worker` is its id.
  SequenceTraces(const Tracer* tracer, const Clock* clock, std::string worker)
      : tracer_(tracer), clock_(clock), worker_(std::move(worker)) {}

  void Begin(SequenceId id, const v1::SubmitSequence& submit, uint64_t epoch,
             const std::string& model);
  // Ends it when the update does. Of a sequence that is not known nothing happens.
  void OnUpdate(const SequenceOutput& update);
  void End(SequenceId id, Finish finish);

  size_t size() const { return kept_.size(); }

 private:
  struct Kept {
    OpenSpan span;
    std::string trace_id;
    std::string request_id;
    std::string model;
    uint64_t epoch = 0;
    int64_t prompt_tokens = 0;
    int64_t replayed_tokens = 0;
    int64_t cached_tokens = 0;
    int64_t output_tokens = 0;
    int64_t choice = 0;
    MonoTime began{};
    MonoTime first_token{};  // zero: none yet
  };
  void Trace(const Kept& kept, const char* finish) const;

  const Tracer* const tracer_;
  const Clock* const clock_;
  const std::string worker_;
  std::unordered_map<SequenceId, Kept> kept_;
};

}  // namespace choir
