// Integer ids that cannot be mixed up: struct SequenceIdTag; using SequenceId =
// StrongId<SequenceIdTag, uint64_t>;
#pragma once

#include <compare>
#include <cstddef>
#include <functional>

namespace choir {

template <typename Tag, typename Int>
class StrongId {
 public:
  constexpr StrongId() = default;
  constexpr explicit StrongId(Int value) : value_(value) {}
  constexpr Int value() const { return value_; }
  constexpr auto operator<=>(const StrongId&) const = default;

 private:
  Int value_{};
};

}  // namespace choir

template <typename Tag, typename Int>
struct std::hash<choir::StrongId<Tag, Int>> {
  size_t operator()(choir::StrongId<Tag, Int> id) const { return std::hash<Int>{}(id.value()); }
};
