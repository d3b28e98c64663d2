#include "common/rpc/credentials.h"

#include <absl/synchronization/mutex.h>
#include <fcntl.h>
#include <fmt/ranges.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>

namespace choir {
namespace {

namespace tls = grpc::experimental;

// Debian builds Abseil with its search for lock cycles on, and gRPC locks a dozen times a message.
void StopSearchForLockCycles() {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
}

std::string Text(grpc::string_ref text) { return {text.data(), text.size()}; }

// Judges what the peer shows in the handshake.
class Verifier final : public tls::ExternalCertificateVerifier {
 public:
  // `server` and its role, when the peer is one; of clients the RPC asks the role, which can tell
  // them the reason.
  Verifier(std::shared_ptr<TlsIdentity> identity, std::string server, const char* role)
      : identity_(std::move(identity)),
        peer_(PeerSide::kServer),
        who_(std::move(server)),
        role_(role) {}
  Verifier(std::shared_ptr<TlsIdentity> identity, ClientCertificate wanted)
      : identity_(std::move(identity)),
        peer_(PeerSide::kClient),
        who_("(a client)"),  // its address is not told here
        optional_(wanted == ClientCertificate::kOptional) {}

  bool Verify(tls::TlsCustomVerificationCheckRequest* request, std::function<void(grpc::Status)>,
              grpc::Status* result) override {
    const std::string leaf = Text(request->peer_cert());
    if (leaf.empty() && optional_) return true;
    auto name =
        JudgePeer(*identity_->material(), peer_, leaf, Text(request->peer_cert_full_chain()));
    Status status = name.status();
    if (status.ok() && role_ != nullptr) status = CheckRole(*name, {role_});
    if (status.ok()) return true;
    identity_->Refuse(who_, status);
    *result = grpc::Status(grpc::StatusCode::UNAUTHENTICATED, MessageOf(status));
    return true;
  }
  void Cancel(tls::TlsCustomVerificationCheckRequest*) override {}

 private:
  const std::shared_ptr<TlsIdentity> identity_;
  const PeerSide peer_;
  const std::string who_;
  const char* const role_ = nullptr;
  const bool optional_ = false;
};

// Key and certificate as a file in memory that gRPC's provider reads by path. gRPC would also take
// up files that do not fit each other, and then serve nobody: this way it sees only what was
// checked. The content is exchanged as one, by another file under the same descriptor.
class ServedFiles {
 public:
  ~ServedFiles() {
    if (fd_ >= 0) close(fd_);
  }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

  Status Set(const TlsMaterial& material) {
    const std::string text = material.key_pem + "\n" + material.cert_pem;
    std::lock_guard lock(mu_);
    const int fresh = memfd_create("choir-tls", MFD_CLOEXEC);
    const bool written =
        fresh >= 0 && write(fresh, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    // The provider compares whole seconds before and after reading: no two versions share one.
    const timespec stamp = {++version_, 0};
    const timespec stamps[2] = {stamp, stamp};
    bool placed = written && futimens(fresh, stamps) == 0;
    if (placed && fd_ < 0) {
      fd_ = fresh;
      return absl::OkStatus();
    }
    placed = placed && dup3(fresh, fd_, O_CLOEXEC) >= 0;
    const int error = errno;
    if (fresh >= 0) close(fresh);
    if (placed) return absl::OkStatus();
    return Unavailable("a file in memory for the certificate: {}", std::strerror(error));
  }

 private:
  std::mutex mu_;  // guards version_ and the exchange
  time_t version_ = 1;
  int fd_ = -1;
};

std::string SpiffeOf(const grpc::ServerContextBase& context) {
  const auto found = context.auth_context()->FindPropertyValues(GRPC_PEER_SPIFFE_ID_PROPERTY_NAME);
  return found.size() == 1 ? Text(found.front()) : "";
}

std::string CommonNameOf(const grpc::ServerContextBase& context) {
  const auto found = context.auth_context()->FindPropertyValues(GRPC_X509_CN_PROPERTY_NAME);
  return found.empty() ? "" : Text(found.front()).substr(0, 256);
}

}  // namespace

StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const std::shared_ptr<TlsIdentity>& identity, ClientCertificate wanted) {
  StopSearchForLockCycles();
  if (identity == nullptr) return grpc::InsecureServerCredentials();
  auto files = std::make_shared<ServedFiles>();
  CHOIR_RETURN_IF_ERROR(files->Set(*identity->material()));
  identity->OnChange([files, &identity = *identity](const TlsMaterial& material) {
    if (const Status set = files->Set(material); !set.ok()) identity.Refuse("own files", set);
  });
  tls::TlsServerCredentialsOptions options(
      std::make_shared<tls::FileWatcherCertificateProvider>(files->path(), files->path(), 1));
  options.watch_identity_key_cert_pairs();
  // The handshake proves that the peer has the key; all else the verifier judges, and says why not.
  options.set_cert_request_type(GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_BUT_DONT_VERIFY);
  options.set_certificate_verifier(
      tls::ExternalCertificateVerifier::Create<Verifier>(identity, wanted));
  return tls::TlsServerCredentials(options);
}

StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const std::shared_ptr<TlsIdentity>& identity, const TlsOptions& options,
    const std::string& address, const char* server_role) {
  StopSearchForLockCycles();
  if (identity == nullptr) {
    CHOIR_RETURN_IF_ERROR(CheckTlsNeed(options, "the address", address));
    return grpc::InsecureChannelCredentials();
  }
  const auto material = identity->material();
  tls::TlsChannelCredentialsOptions out;
  out.set_certificate_provider(std::make_shared<tls::StaticDataCertificateProvider>(
      std::vector<tls::IdentityKeyCertPair>{{material->key_pem, material->cert_pem}}));
  out.watch_identity_key_cert_pairs();
  out.set_verify_server_certs(false);  // by gRPC: the verifier does it, and says why not
  out.set_check_call_host(false);
  out.set_certificate_verifier(
      tls::ExternalCertificateVerifier::Create<Verifier>(identity, address, server_role));
  return tls::TlsCredentials(out);
}

Status CheckCaller(TlsIdentity* identity, const grpc::ServerContextBase& context,
                   std::initializer_list<const char*> roles) {
  if (identity == nullptr) return absl::OkStatus();
  CertificateName name;
  name.spiffe = SpiffeOf(context);
  name.subject = "CN=" + CommonNameOf(context);
  name.identity = IdentityOf(name.spiffe, identity->options().trust_domain);
  const bool has_one =
      !context.auth_context()->FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME).empty();
  const Status status =
      has_one ? CheckRole(name, roles)
              : Unauthenticated("it shows no certificate, a {} does", fmt::join(roles, " or "));
  if (!status.ok()) identity->Refuse(context.peer(), status);
  return status;
}

PeerCertificate CallerCertificate(const TlsIdentity* identity,
                                  const grpc::ServerContextBase& context) {
  PeerCertificate certificate;
  if (identity == nullptr) return certificate;
  certificate.spiffe = SpiffeOf(context);
  certificate.identity = IdentityOf(certificate.spiffe, identity->options().trust_domain);
  const auto auth = context.auth_context();
  if (!auth->FindPropertyValues(GRPC_PEER_URI_PROPERTY_NAME).empty()) return certificate;
  for (const grpc::string_ref& name : auth->FindPropertyValues(GRPC_PEER_DNS_PROPERTY_NAME)) {
    certificate.dns.push_back(Text(name));
  }
  return certificate;
}

}  // namespace choir
