// Merkle trees of RFC 6962, section 2.1, over the hashes of audit records: a root that a checkpoint
// signs, and short proofs that one record is under it. Pure; not thread-safe.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/sha256.h"

namespace choir {

// Grows by one leaf at a time; keeps only the roots of its complete subtrees.
class MerkleBuilder {
 public:
  void Add(std::string_view leaf);
  // Of the leaves so far; of none, the hash of nothing.
  Sha256Digest Root() const;
  size_t size() const { return size_; }

 private:
  std::vector<std::pair<size_t, Sha256Digest>> subtrees_;  // leaves and root; sizes fall
  size_t size_ = 0;
};

// The siblings from leaf `index` up to the root, lowest first. index < leaves.size().
std::vector<Sha256Digest> InclusionPath(std::span<const std::string_view> leaves, size_t index);
// The root that leaf `index` of `size` leaves and its path lead to.
Sha256Digest RootOfPath(std::string_view leaf, size_t index, size_t size,
                        std::span<const Sha256Digest> path);

}  // namespace choir
