#include "router/core/used_names.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace choir {
namespace {

constexpr size_t kBitsEach = 16;
constexpr int kProbes = 8;  // with 16 bits each: 6 in 10,000 are taken for known

// Two hashes make as many as are wanted (Kirsch and Mitzenmacher 2006).
class Probes {
 public:
  Probes(std::string_view name, size_t words)
      : at_(std::hash<std::string_view>()(name)), step_(Mixed(at_) | 1), bits_(words * 64) {}
  size_t Next() { return (at_ += step_) % bits_; }

 private:
  // The finalizer of SplitMix64.
  static uint64_t Mixed(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }

  uint64_t at_;
  const uint64_t step_;
  const uint64_t bits_;
};

bool IsIn(const std::vector<uint64_t>& filter, std::string_view name) {
  Probes probes(name, filter.size());
  for (int i = 0; i < kProbes; ++i) {
    const size_t bit = probes.Next();
    if ((filter[bit / 64] >> (bit % 64) & 1) == 0) return false;
  }
  return true;
}

}  // namespace

UsedNames::UsedNames(size_t names_max)
    : names_max_(names_max), now_(names_max * kBitsEach / 64 + 1), before_(now_.size()) {}

bool UsedNames::Has(std::string_view name) const { return IsIn(now_, name) || IsIn(before_, name); }

void UsedNames::Add(std::string_view name) {
  if (IsIn(now_, name)) return;
  if (num_now_ == names_max_) {
    std::swap(now_, before_);
    std::fill(now_.begin(), now_.end(), 0);
    num_now_ = 0;
  }
  Probes probes(name, now_.size());
  for (int i = 0; i < kProbes; ++i) {
    const size_t bit = probes.Next();
    now_[bit / 64] |= uint64_t{1} << (bit % 64);
  }
  ++num_now_;
}

}  // namespace choir
