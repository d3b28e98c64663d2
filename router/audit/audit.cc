#include "router/audit/audit.h"

namespace choir {
namespace {

class NoAudit final : public Audit {
 public:
  void Intent(const AuditRequest&, const SequenceSampling&, const std::vector<int32_t>&,
              IntentDone done) override {
    done(Receipt());
  }
  void Outcome(const AuditRequest&, const AuditOutcome&, Done done) override { done(Receipt()); }
  void Refused(const AuditRequest&, int, Done done) override { done(Receipt()); }
};

}  // namespace

std::unique_ptr<Audit> MakeNoAudit() { return std::make_unique<NoAudit>(); }

}  // namespace choir
