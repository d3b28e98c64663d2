#include "router/admission/admission.h"

#include "common/base/check.h"

namespace choir {
namespace {

class BoundedAdmission final : public Admission {
 public:
  explicit BoundedAdmission(uint64_t requests_max) : requests_max_(requests_max) {}

  std::variant<std::unique_ptr<Permit>, ApiError> Admit(const AdmitRequest&) override {
    if (*held_ >= requests_max_) {
      return Overloaded("queue_full",
                        fmt::format("{} requests are running or queued already", requests_max_), 1);
    }
    ++*held_;
    return std::make_unique<Place>(held_);
  }

 private:
  class Place final : public Permit {
   public:
    explicit Place(std::shared_ptr<uint64_t> held) : held_(std::move(held)) {}
    ~Place() override { Release(); }
    std::optional<ApiError> Reserve(uint64_t) override { return std::nullopt; }
    void Settle(const Usage&) override {}
    void Release() override {
      if (!held_) return;
      CHOIR_CHECK(*held_ > 0);
      --*held_;
      held_.reset();
    }

   private:
    std::shared_ptr<uint64_t> held_;  // also keeps a permit valid that outlives the admission
  };

  const uint64_t requests_max_;
  std::shared_ptr<uint64_t> held_ = std::make_shared<uint64_t>(0);
};

}  // namespace

std::unique_ptr<Admission> MakeBoundedAdmission(uint64_t requests_max) {
  return std::make_unique<BoundedAdmission>(requests_max);
}

}  // namespace choir
