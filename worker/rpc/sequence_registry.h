// Which sequence of the engine belongs to which router's stream. Pure state; the hub guards it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "worker/engine/types.h"

namespace choir {

using SessionId = uint64_t;  // one stream of a router; never used again

class SequenceRegistry {
 public:
  // A router's name for a sequence.
  struct Owner {
    SessionId session = 0;
    uint64_t router_id = 0;
  };

  void Open(SessionId session);
  // The engine's ids that this session still had: to be cancelled; their updates go nowhere.
  std::vector<SequenceId> Close(SessionId session);
  // The same, but the session goes on; with the router's ids.
  std::vector<std::pair<uint64_t, SequenceId>> Clear(SessionId session);

  // AlreadyExists when the router uses the id already; Unavailable when the session is gone.
  StatusOr<SequenceId> Add(SessionId session, uint64_t router_id);
  void Remove(SequenceId id);
  std::optional<SequenceId> Find(SessionId session, uint64_t router_id) const;
  std::optional<Owner> OwnerOf(SequenceId id) const;

  // What the router lists and what is here, compared.
  struct Difference {
    std::vector<SequenceId> ghosts;  // here, not listed
    std::vector<uint64_t> lost;      // listed, not here
  };
  Difference Compare(SessionId session, const std::vector<uint64_t>& router_ids) const;

  size_t num_sequences() const { return owners_.size(); }
  size_t num_sessions() const { return sessions_.size(); }

 private:
  uint64_t next_id_ = 1;
  std::unordered_map<SequenceId, Owner> owners_;
  std::map<SessionId, std::unordered_map<uint64_t, SequenceId>> sessions_;
};

}  // namespace choir
