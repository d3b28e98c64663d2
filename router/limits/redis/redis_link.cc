#include "router/limits/redis/redis_link.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <tuple>
#include <utility>

namespace choir {
namespace {

namespace asio = boost::asio;
namespace ssl = asio::ssl;
constexpr auto kToken = asio::as_tuple(asio::use_awaitable);

StatusOr<std::shared_ptr<ssl::context>> MakeContext(const TlsOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const auto material, LoadClientMaterial(options));
  auto context = std::make_shared<ssl::context>(ssl::context::tls_client);
  SSL_CTX* const raw = context->native_handle();
  SSL_CTX_set_min_proto_version(raw, TLS1_2_VERSION);
  boost::system::error_code error;
  if (material->authorities != nullptr) {
    SSL_CTX_set1_cert_store(raw, material->authorities.get());
  } else {
    context->set_default_verify_paths(error);
  }
  if (!error && !material->cert_pem.empty()) {
    context->use_certificate_chain(asio::buffer(material->cert_pem), error);
    if (!error) {
      context->use_private_key(asio::buffer(material->key_pem), ssl::context::pem, error);
    }
  }
  if (error) return Unavailable("TLS: {}", error.message());
  return context;
}

// The name or address that the certificate has to be for, and, of a name, what the server is asked
// for.
bool SetHost(SSL* raw, const std::string& host) {
  if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(raw), host.c_str()) == 1) return true;
  ERR_clear_error();  // it is no address
  SSL_set_hostflags(raw, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  return SSL_set1_host(raw, host.c_str()) == 1 && SSL_set_tlsext_host_name(raw, host.c_str()) == 1;
}

}  // namespace

RedisLink::RedisLink(asio::io_context& io, NameLookupOptions lookup)
    : socket_(io), lookup_(io, std::move(lookup)) {}

Status RedisLink::PrepareTls(const std::string& host, const TlsOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(context_, MakeContext(options));
  tls_.emplace(socket_, *context_);
  if (!SetHost(tls_->native_handle(), host)) {
    return InvalidArgument("TLS: '{}' is no name that a certificate can be for", host);
  }
  std::string authorities = "this system (redis.ca names others)";
  if (!options.ca.empty()) authorities = options.FileFlag("ca") + " " + options.ca;
  tls_->set_verify_mode(ssl::verify_peer);
  tls_->set_verify_callback([this, authorities](bool good, ssl::verify_context& context) {
    if (!good && refusal_.empty()) refusal_ = WhyRefused(context.native_handle(), authorities);
    return good;
  });
  return absl::OkStatus();
}

asio::awaitable<StatusOr<std::vector<asio::ip::tcp::endpoint>>> RedisLink::Find(
    const RedisAddress& address) {
  return lookup_.Find(address.host, address.port);
}

asio::awaitable<Status> RedisLink::Open(const std::vector<tcp::endpoint>& endpoints,
                                        const RedisAddress& address, const TlsOptions& tls) {
  if (address.tls) {
    Status ready = PrepareTls(address.host, tls);
    if (!ready.ok()) co_return ready;
  }
  auto [error, at] = co_await asio::async_connect(socket_, endpoints, kToken);
  if (error) co_return Why("cannot connect", error);
  socket_.set_option(tcp::no_delay(true), error);
  if (!tls_) co_return absl::OkStatus();
  auto [failed] = co_await tls_->async_handshake(ssl::stream_base::client, kToken);
  co_return failed ? Why("TLS", failed) : absl::OkStatus();
}

asio::awaitable<StatusOr<std::string_view>> RedisLink::Read() {
  const auto space = asio::buffer(space_);
  boost::system::error_code error;
  size_t size = 0;
  if (tls_) {
    std::tie(error, size) = co_await tls_->async_read_some(space, kToken);
  } else {
    std::tie(error, size) = co_await socket_.async_read_some(space, kToken);
  }
  if (error) co_return Why("the connection was lost", error);
  co_return std::string_view(space_.data(), size);
}

asio::awaitable<Status> RedisLink::Write(std::string_view bytes) {
  const auto rest = asio::buffer(bytes);
  boost::system::error_code error;
  size_t size = 0;
  if (tls_) {
    std::tie(error, size) = co_await asio::async_write(*tls_, rest, kToken);
  } else {
    std::tie(error, size) = co_await asio::async_write(socket_, rest, kToken);
  }
  co_return error ? Why("the connection was lost", error) : absl::OkStatus();
}

void RedisLink::Close() {
  lookup_.Cancel();
  boost::system::error_code ignored;
  socket_.close(ignored);
}

Status RedisLink::Why(const char* what, const boost::system::error_code& error) const {
  if (!refusal_.empty()) return Unavailable("TLS: {}", refusal_);
  if (error == asio::error::eof || error == ssl::error::stream_truncated) {
    return Unavailable("{}: the server closed it", what);
  }
  if (error.category() != asio::error::get_ssl_category()) {
    return Unavailable("{}: {}", what, error.message());
  }
  const int reason = ERR_GET_REASON(static_cast<unsigned long>(error.value()));
  if (reason == SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED) {
    return Unavailable("TLS: the server demands a certificate: give redis.cert and redis.key");
  }
  if (reason == SSL_R_WRONG_VERSION_NUMBER) return Unavailable("TLS: the server speaks none");
  const char* const text = ERR_reason_error_string(static_cast<unsigned long>(error.value()));
  return Unavailable("TLS: {}", text == nullptr ? error.message() : text);
}

}  // namespace choir
