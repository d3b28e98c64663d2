// The names that clients gave to requests, so that one that comes again is known: at least the last
// `names_max`, in a fixed amount of memory (4 bytes a name). Bloom filters of two generations: a
// name that was added is never missed while it is remembered; one in a thousand others is taken for
// known. Pure; one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace choir {

class UsedNames {
 public:
  explicit UsedNames(size_t names_max);  // at least 1

  void Add(std::string_view name);
  bool Has(std::string_view name) const;

 private:
  using Filter = std::vector<uint64_t>;

  const size_t names_max_;
  Filter now_, before_;  // `before_` has none of the names in `now_`, but all of the generation's
  size_t num_now_ = 0;
};

}  // namespace choir
