// A part's TLS identity while it runs: its files, taken up anew when they are replaced, and the
// ledger of the peers it turned away. Replaced files that are not good leave the old ones in force;
// connections that are open are not touched. Thread-safe.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "common/config/file_watch.h"
#include "common/tls/certificate.h"

namespace choir {

struct TlsFacts {
  CertificateName name;  // of the certificate in force
  uint64_t reloads = 0;  // that took new files up
  std::string problem;   // why the files as they are now are not in force; empty: they are
  uint64_t refused = 0;  // peers, since the start
  std::string last_refused;
};

class TlsIdentity {
 public:
  // nullptr without TLS. Fails when the files are not good (LoadTlsMaterial) or, with a role, when
  // there are none beyond what CheckTlsNeed allows.
  static StatusOr<std::shared_ptr<TlsIdentity>> Open(const TlsOptions& options,
                                                     const std::string& role);
  ~TlsIdentity();  // stops and joins

  const TlsOptions& options() const { return options_; }
  std::shared_ptr<const TlsMaterial> material() const;
  TlsFacts facts() const;

  // Hears of each new material from now on, from the watching thread.
  void OnChange(std::function<void(const TlsMaterial&)> hook);
  // Looks at the files on an own thread from now on. A change counts once it stood still for a
  // whole interval: certificate and key cannot be replaced in one go.
  void Watch(Duration interval);
  // One such look.
  void Poll();

  // Counts, keeps and logs a refusal; `who` is the peer's address. At most one line a second.
  void Refuse(const std::string& who, const Status& why);

 private:
  using Stamps = std::vector<FileStamp>;

  TlsIdentity(TlsOptions options, std::string role);
  Stamps Look() const;
  void Reload();

  const TlsOptions options_;
  const std::string role_;
  Stamps seen_, taken_;  // the watching thread's: of the last look, and of what is in force

  mutable std::mutex mu_;  // guards all below
  std::shared_ptr<const TlsMaterial> material_;
  TlsFacts facts_;
  std::vector<std::function<void(const TlsMaterial&)>> hooks_;
  MonoTime refusal_logged_{};
  bool stop_ = false;
  std::condition_variable wake_;
  std::thread thread_;
};

}  // namespace choir
