#include "worker/rpc/sequence_registry.h"

#include <unordered_set>

namespace choir {

void SequenceRegistry::Open(SessionId session) { sessions_.try_emplace(session); }

std::vector<SequenceId> SequenceRegistry::Close(SessionId session) {
  std::vector<SequenceId> ids;
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return ids;
  for (const auto& [router_id, id] : found->second) {
    ids.push_back(id);
    owners_.erase(id);
  }
  sessions_.erase(found);
  return ids;
}

std::vector<std::pair<uint64_t, SequenceId>> SequenceRegistry::Clear(SessionId session) {
  std::vector<std::pair<uint64_t, SequenceId>> ids;
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return ids;
  ids.assign(found->second.begin(), found->second.end());
  for (const auto& [router_id, id] : ids) owners_.erase(id);
  found->second.clear();
  return ids;
}

StatusOr<SequenceId> SequenceRegistry::Add(SessionId session, uint64_t router_id) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return Unavailable("the router's stream is gone");
  const SequenceId id(next_id_);
  if (!found->second.try_emplace(router_id, id).second) {
    return AlreadyExists("sequence {} is submitted twice", router_id);
  }
  ++next_id_;
  owners_[id] = {session, router_id};
  return id;
}

void SequenceRegistry::Remove(SequenceId id) {
  const auto found = owners_.find(id);
  if (found == owners_.end()) return;
  sessions_.at(found->second.session).erase(found->second.router_id);
  owners_.erase(found);
}

std::optional<SequenceId> SequenceRegistry::Find(SessionId session, uint64_t router_id) const {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return std::nullopt;
  const auto sequence = found->second.find(router_id);
  if (sequence == found->second.end()) return std::nullopt;
  return sequence->second;
}

std::optional<SequenceRegistry::Owner> SequenceRegistry::OwnerOf(SequenceId id) const {
  const auto found = owners_.find(id);
  if (found == owners_.end()) return std::nullopt;
  return found->second;
}

SequenceRegistry::Difference SequenceRegistry::Compare(
    SessionId session, const std::vector<uint64_t>& router_ids) const {
  Difference difference;
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return difference;
  const std::unordered_set<uint64_t> listed(router_ids.begin(), router_ids.end());
  for (const auto& [router_id, id] : found->second) {
    if (!listed.contains(router_id)) difference.ghosts.push_back(id);
  }
  for (const uint64_t router_id : listed) {
    if (!found->second.contains(router_id)) difference.lost.push_back(router_id);
  }
  return difference;
}

}  // namespace choir
