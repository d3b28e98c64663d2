#include "router/audit/audit.h"

namespace choir {
namespace {

class NoAudit final : public Audit {
 public:
  void Intent(AuditIntent, Done done) override { done(Receipt()); }
  void Outcome(AuditOutcome, Done done) override { done(Receipt()); }
  void Refused(AuditRefusal, Done done) override { done(Receipt()); }
  void Admin(std::string, std::string) override {}
};

}  // namespace

std::unique_ptr<Audit> MakeNoAudit() { return std::make_unique<NoAudit>(); }

}  // namespace choir
