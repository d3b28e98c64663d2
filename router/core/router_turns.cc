// Who may run, and when: the core's side of admission.
#include <utility>

#include "common/base/check.h"
#include "common/base/log.h"
#include "router/core/router_core.h"

namespace choir {
namespace {

constexpr char kClassHeader[] = "x-choir-class";

Capacity ToCapacity(const RankCapacity& ranks) {
  return {.ranks = ranks.ranks,
          .seats = ranks.seats,
          .bounded = ranks.silent == 0,
          .free = ranks.free,
          .over = ranks.over,
          .kv_free = ranks.kv_silent == 0 ? ranks.kv_free : UINT64_MAX};
}

// Those that one of this class may name: "default, bulk".
std::string NamesFrom(AdmissionClass granted) {
  std::string names;
  for (const AdmissionClass c : kAdmissionClasses) {
    if (c >= granted) names += (names.empty() ? "" : ", ") + std::string(AdmissionClassName(c));
  }
  return names;
}

}  // namespace

// Its key's class, else its tenant's; or the lower one that it asks for.
std::optional<ApiError> RouterCore::CheckClass(Request& request) const {
  const AdmissionClass granted = request.principal->rights->admission_class.value_or(
      parts_.admission->ClassOf(request.tenant()));
  request.admission_class = granted;
  const std::string& wanted = request.input.wanted_class;
  if (wanted.empty()) return std::nullopt;
  const std::optional<AdmissionClass> asked = ParseAdmissionClass(wanted);
  if (!asked) {
    return InvalidParam(kClassHeader, std::string(kClassHeader) +
                                          ": must be one of interactive, default, bulk, system");
  }
  if (*asked < granted) {
    return ApiError{
        .http = 403,
        .type = "permission_error",
        .code = "permission_denied",
        .message = fmt::format("this key's class is '{}': {} may be {}",
                               AdmissionClassName(granted), kClassHeader, NamesFrom(granted)),
        .param = kClassHeader};
  }
  request.admission_class = LowerOf(granted, *asked);
  return std::nullopt;
}

void RouterCore::SetAdmission(AdmissionConfig config) {
  parts_.admission->SetConfig(std::move(config));
  turns_due_ = true;
}

void RouterCore::TellCapacity() {
  parts_.admission->SetCapacity(ToCapacity(membership_.capacity()));
}

// Lets run whoever may. What it lets run may end at once and call this again: the loop goes on.
void RouterCore::TakeTurns() {
  if (taking_turns_) return;
  turns_due_ = false;
  if (!parts_.admission->anybody_waits()) return;
  taking_turns_ = true;
  while (true) {
    TellCapacity();
    const std::optional<uint64_t> next = parts_.admission->Next(parts_.clock->Now());
    if (!next) break;
    Request* const request = InStage(*next, RequestStage::kQueued);
    CHOIR_CHECK(request != nullptr);
    OnTurn(*request);
  }
  taking_turns_ = turns_due_ = false;
}

}  // namespace choir
