#include "worker/rpc/sequence_traces.h"

#include "common/base/log.h"

namespace choir {
namespace {

const char* NameOf(Finish finish) {
  switch (finish) {
    case Finish::kNone:
      return "none";
    case Finish::kStop:
      return "stop";
    case Finish::kLength:
      return "length";
    case Finish::kCancelled:
      return "cancelled";
    case Finish::kRefused:
      return "refused";
    case Finish::kLost:
      return "lost";
  }
  return "?";
}

}  // namespace

void SequenceTraces::Begin(SequenceId id, const v1::SubmitSequence& submit, uint64_t epoch,
                           const std::string& model) {
  OpenSpan span;
  if (tracer_ != nullptr && !submit.trace_parent().empty()) {
    span = tracer_->Begin(submit.trace_parent());
  }
  if (!span.recorded() && !spdlog::should_log(spdlog::level::debug)) return;
  Kept kept{.span = std::move(span)};
  kept.trace_id = TraceIdOf(submit.trace_parent());
  kept.request_id = submit.request_id();
  kept.model = model;
  kept.epoch = epoch;
  kept.prompt_tokens = submit.num_prompt_tokens();
  kept.replayed_tokens = submit.token_ids_size() - kept.prompt_tokens;
  kept.choice = submit.sampling().choice();
  kept.began = clock_->Now();
  kept_.emplace(id, std::move(kept));
}

void SequenceTraces::OnUpdate(const SequenceOutput& update) {
  const auto it = kept_.find(update.id);
  if (it == kept_.end()) return;
  Kept& kept = it->second;
  if (!update.tokens.empty() && kept.first_token == MonoTime{}) {
    kept.first_token = clock_->Now();
    kept.cached_tokens = update.cached_tokens;
  }
  kept.output_tokens += static_cast<int64_t>(update.tokens.size());
  if (update.finish != Finish::kNone) End(update.id, update.finish);
}

void SequenceTraces::End(SequenceId id, Finish finish) {
  const auto it = kept_.find(id);
  if (it == kept_.end()) return;
  const Kept kept = std::move(it->second);
  kept_.erase(it);
  const char* const name = NameOf(finish);
  LogFields(spdlog::level::debug, "sequence",
            {{"request_id", kept.request_id},
             {"trace_id", kept.trace_id},
             {"choice", kept.choice},
             {"epoch", static_cast<int64_t>(kept.epoch)},
             {"finish", name},
             {"prompt_tokens", kept.prompt_tokens},
             {"cached_tokens", kept.cached_tokens},
             {"replayed_tokens", kept.replayed_tokens},
             {"output_tokens", kept.output_tokens},
             {"duration_ms", Seconds(clock_->Now() - kept.began) * 1e3}});
  if (kept.span.recorded()) Trace(kept, name);
}

void SequenceTraces::Trace(const Kept& kept, const char* finish) const {
  Span span{.name = "sequence", .kind = SpanKind::kServer};
  span.attributes = {{"gen_ai.provider.name", "choir"},
                     {"gen_ai.request.model", kept.model},
                     {"gen_ai.usage.input_tokens", kept.prompt_tokens},
                     {"gen_ai.usage.cache_read.input_tokens", kept.cached_tokens},
                     {"gen_ai.usage.output_tokens", kept.output_tokens},
                     {"gen_ai.response.finish_reasons", std::vector<std::string>{finish}},
                     {"choir.request_id", kept.request_id},
                     {"choir.worker", worker_},
                     {"choir.epoch", static_cast<int64_t>(kept.epoch)},
                     {"choir.choice", kept.choice},
                     {"choir.replayed_tokens", kept.replayed_tokens}};
  if (kept.first_token != MonoTime{}) {
    span.attributes.push_back(
        {"gen_ai.server.time_to_first_token", Seconds(kept.first_token - kept.began)});
    span.events.emplace_back("first token", tracer_->WallNs(kept.first_token));
  }
  tracer_->End(kept.span, std::move(span));
}

}  // namespace choir
