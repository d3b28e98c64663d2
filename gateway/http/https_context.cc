#include "gateway/http/https_context.h"

#include <boost/asio/buffer.hpp>
#include <string_view>
#include <utility>

#include "common/base/log.h"

namespace choir {
namespace {

namespace ssl = boost::asio::ssl;
constexpr std::string_view kHttp11 = "\x08http/1.1";  // as ALPN writes it: RFC 7301

int ChooseProtocol(SSL*, const unsigned char** out, unsigned char* out_size,
                   const unsigned char* offered, unsigned offered_size, void*) {
  const auto* ours = reinterpret_cast<const unsigned char*>(kHttp11.data());
  const int found =
      SSL_select_next_proto(const_cast<unsigned char**>(out), out_size, ours,
                            static_cast<unsigned>(kHttp11.size()), offered, offered_size);
  return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

std::shared_ptr<ssl::context> Make(const TlsMaterial& material, boost::system::error_code* error) {
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  SSL_CTX* raw = context->native_handle();
  SSL_CTX_set_min_proto_version(raw, TLS1_2_VERSION);
  SSL_CTX_set_options(raw, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(raw, SSL_MODE_RELEASE_BUFFERS);  // thousands of streams are mostly idle
  SSL_CTX_set_alpn_select_cb(raw, ChooseProtocol, nullptr);
  context->use_certificate_chain(boost::asio::buffer(material.cert_pem), *error);
  if (!*error) {
    context->use_private_key(boost::asio::buffer(material.key_pem), ssl::context::pem, *error);
  }
  return context;
}

}  // namespace

HttpsContext::HttpsContext(std::shared_ptr<TlsIdentity> identity)
    : identity_(std::move(identity)) {}

std::shared_ptr<ssl::context> HttpsContext::Get() {
  auto material = identity_->material();
  if (material == material_) return context_;
  material_ = std::move(material);
  boost::system::error_code error;
  auto context = Make(*material_, &error);
  if (error) {
    CHOIR_LOG(error, "{}: {}; new connections get the certificate before it",
              material_->options.cert, error.message());
  } else {
    context_ = std::move(context);
  }
  return context_;
}

}  // namespace choir
