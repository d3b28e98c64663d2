// The credentials of every gRPC connection between parts, made here and nowhere else. A null
// identity means plain text (CheckTlsNeed says where that is allowed). With TLS both sides show
// certificates and judge them by JudgePeer, so that a refusal says why; host names are not looked
// at: a part is known by its role. Thread-safe.
#pragma once

#include <grpcpp/security/auth_context.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_context.h>

#include <initializer_list>
#include <memory>
#include <string>

#include "common/tls/tls_identity.h"

namespace choir {

enum class ClientCertificate { kOptional, kRequired };

// For a listening port. New files of the identity hold for new connections about a second later.
StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const std::shared_ptr<TlsIdentity>& identity, ClientCertificate wanted);

// For one channel, with the files as they are now: make a channel anew to take up newer ones. The
// server at `address` must have the role. An error when plain text may not go there.
StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const std::shared_ptr<TlsIdentity>& identity, const TlsOptions& options,
    const std::string& address, const char* server_role);

// Whether the caller of an RPC may call it: OK without TLS, and for the roles. Otherwise the
// refusal, which is also counted and logged.
Status CheckCaller(TlsIdentity* identity, const grpc::ServerContextBase& context,
                   std::initializer_list<const char*> roles);

// Who the caller's certificate says that it is; empty without TLS or certificate.
PeerCertificate CallerCertificate(const TlsIdentity* identity,
                                  const grpc::ServerContextBase& context);

}  // namespace choir
