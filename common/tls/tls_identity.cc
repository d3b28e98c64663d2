#include "common/tls/tls_identity.h"

#include <pthread.h>

#include <utility>

#include "common/base/log.h"

namespace choir {

TlsIdentity::TlsIdentity(TlsOptions options, std::string role)
    : options_(std::move(options)), role_(std::move(role)) {}

StatusOr<std::shared_ptr<TlsIdentity>> TlsIdentity::Open(const TlsOptions& options,
                                                         const std::string& role) {
  if (!options.configured()) return std::shared_ptr<TlsIdentity>();
  std::shared_ptr<TlsIdentity> identity(new TlsIdentity(options, role));
  // The stamps first: what is written from here on is seen as a change.
  identity->seen_ = identity->taken_ = identity->Look();
  CHOIR_ASSIGN_OR_RETURN(identity->material_, LoadTlsMaterial(options, role));
  identity->facts_.name = identity->material_->name;
  return identity;
}

TlsIdentity::~TlsIdentity() {
  {
    std::lock_guard lock(mu_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

std::shared_ptr<const TlsMaterial> TlsIdentity::material() const {
  std::lock_guard lock(mu_);
  return material_;
}

TlsFacts TlsIdentity::facts() const {
  std::lock_guard lock(mu_);
  return facts_;
}

void TlsIdentity::OnChange(std::function<void(const TlsMaterial&)> hook) {
  std::lock_guard lock(mu_);
  hooks_.push_back(std::move(hook));
}

void TlsIdentity::Watch(Duration interval) {
  thread_ = std::thread([this, interval] {
    pthread_setname_np(pthread_self(), "choir-tls");
    std::unique_lock lock(mu_);
    while (!wake_.wait_for(lock, interval, [this] { return stop_; })) {
      lock.unlock();
      Poll();
      lock.lock();
    }
  });
}

TlsIdentity::Stamps TlsIdentity::Look() const {
  Stamps stamps;
  for (const std::string* path : {&options_.cert, &options_.key, &options_.ca}) {
    stamps.push_back(path->empty() ? FileStamp{} : StampOf(*path));
  }
  return stamps;
}

void TlsIdentity::Poll() {
  Stamps now = Look();
  const bool still = now == seen_;
  seen_ = std::move(now);
  if (!still || seen_ == taken_) return;
  taken_ = seen_;
  Reload();
}

void TlsIdentity::Reload() {
  auto loaded = LoadTlsMaterial(options_, role_);
  std::vector<std::function<void(const TlsMaterial&)>> hooks;
  {
    std::lock_guard lock(mu_);
    if (loaded.ok()) {
      material_ = *loaded;
      facts_.name = material_->name;
      facts_.problem.clear();
      ++facts_.reloads;
      hooks = hooks_;
    } else {
      facts_.problem = MessageOf(loaded.status());
    }
  }
  if (!loaded.ok()) {
    CHOIR_LOG(error, "{}; the certificate read before stays in force", MessageOf(loaded.status()));
    return;
  }
  CHOIR_LOG(info, "{}: {} is in force for new connections", options_.cert,
            (*loaded)->name.ForPeople());
  for (const auto& hook : hooks) hook(**loaded);
}

void TlsIdentity::Refuse(const std::string& who, const Status& why) {
  const std::string text = fmt::format("{}: {}", who, MessageOf(why));
  const MonoTime now = Clock::Real().Now();
  {
    std::lock_guard lock(mu_);
    ++facts_.refused;
    facts_.last_refused = text;
    if (now - refusal_logged_ < std::chrono::seconds(1)) return;
    refusal_logged_ = now;
  }
  CHOIR_LOG(warn, "refused peer {}", text);
}

}  // namespace choir
