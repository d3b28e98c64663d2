// The TLS context of the HTTPS port, made of the identity's files and made anew when they change:
// connections keep the one that they began with. The io thread's.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <memory>

#include "common/tls/tls_identity.h"

namespace choir {

class HttpsContext {
 public:
  // REQUIRES: an identity.
  explicit HttpsContext(std::shared_ptr<TlsIdentity> identity);

  // For a new connection. Null when OpenSSL never took the files, which LoadTlsMaterial checked.
  std::shared_ptr<boost::asio::ssl::context> Get();

 private:
  const std::shared_ptr<TlsIdentity> identity_;
  std::shared_ptr<const TlsMaterial> material_;  // that context_ was made of
  std::shared_ptr<boost::asio::ssl::context> context_;
};

}  // namespace choir
