// What the contract of LimitBackend runs on: one count, however many routers ask it, and a time
// that moves when told.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "router/limits/limit_backend.h"

namespace choir {

class LimitWorld {
 public:
  virtual ~LimitWorld() = default;
  virtual LimitBackend& backend(size_t router) = 0;
  virtual size_t num_routers() const = 0;
  virtual void Advance(double us) = 0;
  virtual double NowUs() const = 0;
  // Runs what backends have to do until `done`.
  virtual void RunUntil(const std::function<bool()>& done) = 0;

  LimitAnswer Ask(LimitCall call, size_t router = 0) {
    std::optional<LimitAnswer> got;
    backend(router).Call(std::move(call), [&](const LimitAnswer& answer) { got = answer; });
    RunUntil([&] { return got.has_value(); });
    return *std::move(got);
  }
};

struct LimitWorldKind {
  std::string name;
  std::function<std::unique_ptr<LimitWorld>()> make;  // null: cannot be had here
};
void PrintTo(const LimitWorldKind& kind, std::ostream* out);
std::vector<LimitWorldKind> LimitWorlds();

// A request as the suite follows it.
struct AskedRequest {
  bool admitted = false;
  LimitAnswer answer;  // the last
  LimitCall closing;   // gives back what it holds
};
AskedRequest AskAdmit(LimitWorld& world, const LimitScopes& scopes, size_t router = 0);
// `request.admitted` says whether the reservation was granted.
LimitAnswer AskReserve(LimitWorld& world, AskedRequest* request, double tokens, size_t router = 0);
void AskClose(LimitWorld& world, AskedRequest request, double used_tokens, size_t router = 0);

LimitScopes ScopesOf(std::vector<std::pair<std::string, LimitRules>> scopes);

}  // namespace choir
