#include "router/limits/no_limits.h"

namespace choir {
namespace {

class FreeLease final : public LimitLease {
 public:
  void Reserve(const TokenNeed& /*need*/, ReserveDone done) override { done(std::nullopt); }
  void Settle(const Usage& /*usage*/) override {}
  void Withdraw() override {}
  std::string rule() const override { return "none"; }
  std::vector<LimitReading> readings() const override { return {}; }
};

class NoLimits final : public Limits {
 public:
  void Admit(const LimitQuery& /*query*/, AdmitDone done) override { done(MakeFreeLease()); }
  LimitStatus status() const override { return {}; }
  std::vector<LimitUse> Uses(const std::string& /*tenant*/, size_t /*max*/) override { return {}; }
};

}  // namespace

std::unique_ptr<LimitLease> MakeFreeLease() { return std::make_unique<FreeLease>(); }
std::unique_ptr<Limits> MakeNoLimits() { return std::make_unique<NoLimits>(); }

}  // namespace choir
