#include "router/audit/merkle.h"

#include <bit>

#include "common/base/check.h"

namespace choir {
namespace {

// The prefixes keep a leaf from being passed off as a node.
Sha256Digest LeafHash(std::string_view leaf) {
  Sha256 hash;
  hash.Update(std::string_view("\0", 1));
  hash.Update(leaf);
  return hash.Finish();
}

Sha256Digest NodeHash(const Sha256Digest& left, const Sha256Digest& right) {
  Sha256 hash;
  hash.Update(std::string_view("\1", 1));
  hash.Update(std::as_bytes(std::span(left)));
  hash.Update(std::as_bytes(std::span(right)));
  return hash.Finish();
}

// The largest power of two below n > 1: where a tree of n leaves is cut.
size_t Cut(size_t n) { return std::bit_floor(n - 1); }

Sha256Digest RootOf(std::span<const std::string_view> leaves) {
  if (leaves.size() == 1) return LeafHash(leaves[0]);
  const size_t cut = Cut(leaves.size());
  return NodeHash(RootOf(leaves.first(cut)), RootOf(leaves.subspan(cut)));
}

}  // namespace

void MerkleBuilder::Add(std::string_view leaf) {
  ++size_;
  subtrees_.emplace_back(1, LeafHash(leaf));
  while (subtrees_.size() > 1 && subtrees_.back().first == subtrees_[subtrees_.size() - 2].first) {
    const auto right = subtrees_.back();
    subtrees_.pop_back();
    auto& left = subtrees_.back();
    left = {left.first + right.first, NodeHash(left.second, right.second)};
  }
}

Sha256Digest MerkleBuilder::Root() const {
  if (subtrees_.empty()) return Sha256Of("");
  Sha256Digest root = subtrees_.back().second;
  for (size_t i = subtrees_.size() - 1; i-- > 0;) root = NodeHash(subtrees_[i].second, root);
  return root;
}

std::vector<Sha256Digest> InclusionPath(std::span<const std::string_view> leaves, size_t index) {
  CHOIR_CHECK(index < leaves.size());
  if (leaves.size() == 1) return {};
  const size_t cut = Cut(leaves.size());
  const bool left = index < cut;
  std::vector<Sha256Digest> path = left ? InclusionPath(leaves.first(cut), index)
                                        : InclusionPath(leaves.subspan(cut), index - cut);
  path.push_back(RootOf(left ? leaves.subspan(cut) : leaves.first(cut)));
  return path;
}

Sha256Digest RootOfPath(std::string_view leaf, size_t index, size_t size,
                        std::span<const Sha256Digest> path) {
  if (size == 1 || path.empty()) return LeafHash(leaf);
  const size_t cut = Cut(size);
  const auto rest = path.first(path.size() - 1);
  if (index < cut) return NodeHash(RootOfPath(leaf, index, cut, rest), path.back());
  return NodeHash(path.back(), RootOfPath(leaf, index - cut, size - cut, rest));
}

}  // namespace choir
