// Repeated questions: an answer that was given before is given again, and one that may be asked for
// again is kept (router/cache/result_cache.h).
#include <algorithm>
#include <utility>

#include "router/core/router_core.h"

namespace choir {
namespace {

// What is kept elsewhere may be anything.
bool IsAnswer(const KnownAnswer& answer, size_t num_choices, int32_t vocab_size) {
  return answer.size() == num_choices &&
         std::all_of(answer.begin(), answer.end(), [&](const KnownChoice& choice) {
           return (choice.finish_reason == "stop" || choice.finish_reason == "length") &&
                  std::all_of(choice.tokens.begin(), choice.tokens.end(),
                              [&](int32_t token) { return token >= 0 && token < vocab_size; });
         });
}

}  // namespace

// True: OnLookup goes on with it.
bool RouterCore::LookUp(Request& request) {
  if (parts_.results == nullptr || !request.may_recall) return false;
  const PreparedRequest& ready = *request.prepared;
  request.result_key = KeyOf({.tenant = request.tenant(),
                              .numerics_id = model_info().numerics_id,
                              .prompt = ready.prompt,
                              .sampling = ready.sampling,
                              .seeded = request.seeded,
                              .num_choices = ready.num_choices,
                              .stops = ready.text.stops});
  if (!request.result_key) return false;
  request.stage = RequestStage::kLookup;
  parts_.results->Find(*request.result_key,
                       [this, id = request.id](std::optional<KnownAnswer> known) {
                         OnLookup(id, std::move(known));
                       });
  return true;
}

void RouterCore::OnLookup(uint64_t id, std::optional<KnownAnswer> known) {
  Request* const request = InStage(id, RequestStage::kLookup);
  if (request == nullptr) return;
  const PreparedRequest& ready = *request->prepared;
  request->recalled = known.has_value() &&
                      IsAnswer(*known, ready.num_choices, parts_.model->tokenizer().vocab_size());
  parts_.metrics->OnLookup(request->recalled);
  if (!request->recalled) return Reserve(*request);
  request->known = std::move(known);
  PutIntent(*request);  // it uses no tokens of anybody's limits
}

// REQUIRES: the request ended well.
void RouterCore::KeepAnswer(const Request& request) {
  if (!request.result_key || request.recalled) return;
  KnownAnswer answer;
  for (uint32_t choice = 0; choice < request.relay->num_choices(); ++choice) {
    answer.push_back({request.relay->committed(choice), request.relay->finish_reasons()[choice]});
  }
  const bool whole = IsAnswer(answer, answer.size(), parts_.model->tokenizer().vocab_size());
  if (whole) parts_.results->Put(*request.result_key, answer);  // else a content rule cut it
}

}  // namespace choir
