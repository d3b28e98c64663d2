#include "router/identity/identity.h"

#include <utility>

#include "common/base/log.h"

namespace choir {

StatusOr<std::unique_ptr<Identity>> Identity::Open(const std::string& path,
                                                   std::function<void(const Status&)> on_reload) {
  std::unique_ptr<Identity> identity(new Identity);
  Identity* self = identity.get();
  bool first = true;
  auto read = [self, path, on_reload = std::move(on_reload),
               first](const std::string& text) mutable {
    const Status status = self->Read(text, path);
    if (!std::exchange(first, false) && on_reload) on_reload(status);
    return status;
  };
  identity->watch_ = std::make_unique<FileWatch>(path, std::move(read));
  CHOIR_RETURN_IF_ERROR(identity->watch_->Poll());
  identity->watch_->Start(std::chrono::milliseconds(250));
  return identity;
}

Identity::Identity(std::vector<KeyRecord> keys)
    : keys_(std::make_shared<const KeySet>(std::move(keys))) {}

Status Identity::Read(const std::string& text, const std::string& path) {
  auto records = ParseKeys(text, path);
  if (!records.ok()) return records.status();
  auto keys = std::make_shared<const KeySet>(*std::move(records));
  CHOIR_LOG(info, "{}: {} keys in force or revoked", path, keys->size());
  std::lock_guard lock(mu_);
  keys_ = std::move(keys);
  return absl::OkStatus();
}

std::optional<Principal> Identity::Authenticate(std::string_view bearer) const {
  std::shared_ptr<const KeySet> keys;
  {
    std::lock_guard lock(mu_);
    keys = keys_;
  }
  const KeyRecord* key = keys->Find(bearer);
  if (key == nullptr) return std::nullopt;
  return Principal{key->tenant, key->id};
}

}  // namespace choir
