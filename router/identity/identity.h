// Who is asking: the keys in force right now. Follows the keys file within half a second; a file
// that cannot be read or parsed leaves the last good keys in force. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/status.h"
#include "common/config/file_watch.h"
#include "router/identity/keys.h"

namespace choir {

struct Principal {
  std::string tenant;
  std::string key_id;
};

class Identity {
 public:
  // Fails when the file cannot be read at start. `on_reload` (may be empty) hears of each later
  // reading, from the watching thread.
  static StatusOr<std::unique_ptr<Identity>> Open(const std::string& path,
                                                  std::function<void(const Status&)> on_reload);
  // Fixed keys, for tests.
  explicit Identity(std::vector<KeyRecord> keys);

  // nullopt: no such key, or revoked. `bearer` is the key itself, without "Bearer ".
  std::optional<Principal> Authenticate(std::string_view bearer) const;

 private:
  Identity() = default;
  Status Read(const std::string& text, const std::string& path);

  mutable std::mutex mu_;  // guards keys_
  std::shared_ptr<const KeySet> keys_;
  std::unique_ptr<FileWatch> watch_;  // last: stops before keys_ goes
};

}  // namespace choir
