// The count of limits in Redis: one Lua script, the same rules as limit_book.cc, run atomically for
// all scopes of a call. Here are its text and its wire: calls as arguments, answers back.
//
// Keys: the sorted set of routers (score: until when one counts as alive, by Redis' clock), the
// era (names this life of Redis' data: another one means that all was lost), and one hash a scope:
// t (when the levels were right, us), lN and wN (level and spare of bucket N), and for each router
// r: (requests running), k: (tokens reserved) and m: (money reserved). What a dead router holds
// counts no more. A scope that is as good as new expires.
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"
#include "router/limits/limit_book.h"
#include "router/limits/limit_scope.h"

namespace choir {

extern const char kLimitScript[];

struct ScriptCall {
  std::vector<std::string> keys;
  std::vector<std::string> arguments;
};

// Who asks. `now_us` 0: by Redis' own clock; tests give it.
struct ScriptCaller {
  std::string router;
  std::string prefix;  // of all keys
  double now_us = 0;
};

ScriptCall EncodeCall(const ScriptCaller& caller, const LimitCall& call);
// Scopes and era are the caller's to fill in.
StatusOr<LimitAnswer> DecodeAnswer(const std::vector<std::string>& reply, size_t num_scopes,
                                   double* replicas);

struct SyncCall {
  double lease_us = 0;    // this router is alive for so long
  std::string known_era;  // as the last sync's answer said; empty: none
  std::string new_era;    // unique; if there is none
};
// This router is alive and holds so much of these scopes.
struct HeldScope {
  LimitScope scope;  // whole limits
  LimitBook::Scope held;
};
ScriptCall EncodeSync(const ScriptCaller& caller, const SyncCall& call,
                      const std::vector<HeldScope>& scopes);
struct SyncAnswer {
  bool lost = false;  // Redis did not know this router any more
  double replicas = 1;
  std::string era;
};
StatusOr<SyncAnswer> DecodeSync(const std::vector<std::string>& reply);
// This router is gone.
ScriptCall EncodeLeave(const ScriptCaller& caller);

}  // namespace choir
