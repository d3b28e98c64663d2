// Real handshakes over loopback.
#include "common/rpc/credentials.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "choir/v1/control.grpc.pb.h"
#include "common/rpc/refused_stream.h"
#include "tests/support/test_authority.h"

namespace choir {
namespace {

using ::testing::HasSubstr;

// Answers a join with what the caller is.
class Service final : public v1::Group::CallbackService {
 public:
  explicit Service(std::shared_ptr<TlsIdentity> identity) : identity_(std::move(identity)) {}
  grpc::ServerBidiReactor<v1::JoinUp, v1::JoinDown>* Join(
      grpc::CallbackServerContext* context) override {
    const Status may = CheckCaller(identity_.get(), *context, {kWorkerRole});
    if (!may.ok()) return new RefusedStream<v1::JoinUp, v1::JoinDown>(may);
    auto* echo = new Echo;
    echo->down.set_reason("hello " + CallerCertificate(identity_.get(), *context).identity);
    echo->Begin();
    return echo;
  }

 private:
  struct Echo final : grpc::ServerBidiReactor<v1::JoinUp, v1::JoinDown> {
    void Begin() {
      StartRead(&up);
      StartWrite(&down);
    }
    void OnReadDone(bool ok) override {
      if (!ok) return Finish(grpc::Status::OK);
      StartRead(&up);
    }
    void OnDone() override { delete this; }
    v1::JoinUp up;
    v1::JoinDown down;
  };
  const std::shared_ptr<TlsIdentity> identity_;
};

class CredentialsTest : public ::testing::Test {
 protected:
  void Serve(const TlsOptions& options, const std::string& role,
             ClientCertificate wanted = ClientCertificate::kRequired) {
    server_identity_ = Open(options, role);
    service_ = std::make_unique<Service>(server_identity_);
    auto credentials = MakeServerCredentials(server_identity_, wanted);
    ASSERT_TRUE(credentials.ok()) << credentials.status();
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", *credentials, &port);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  static std::shared_ptr<TlsIdentity> Open(const TlsOptions& options, const std::string& role) {
    auto identity = TlsIdentity::Open(options, role);
    EXPECT_TRUE(identity.ok()) << identity.status();
    return identity.ok() ? *identity : nullptr;
  }

  // One stream of a client over a connection of its own.
  class Client {
   public:
    Client(const std::string& address, std::shared_ptr<grpc::ChannelCredentials> credentials) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      stub_ = v1::Group::NewStub(grpc::CreateCustomChannel(address, credentials, arguments));
      context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
      stream_ = stub_->Join(&context_);
    }
    // The server's greeting, or why there is none.
    std::string Greeting() {
      v1::JoinDown down;
      if (stream_->Read(&down)) return down.reason();
      return End();
    }
    std::string End() {
      stream_->WritesDone();
      v1::JoinDown down;
      while (stream_->Read(&down)) {
      }
      const grpc::Status status = stream_->Finish();
      return status.ok() ? "ended well" : status.error_message();
    }

   private:
    std::unique_ptr<v1::Group::Stub> stub_;
    grpc::ClientContext context_;
    std::unique_ptr<grpc::ClientReaderWriter<v1::JoinUp, v1::JoinDown>> stream_;
  };
  std::string Greet(const TlsOptions& options, const std::string& own_role,
                    const char* server_role) {
    client_identity_ = Open(options, own_role);
    auto credentials = MakeChannelCredentials(client_identity_, options, address_, server_role);
    EXPECT_TRUE(credentials.ok()) << credentials.status();
    return Client(address_, *credentials).Greeting();
  }
  std::string LastRefused() { return server_identity_->facts().last_refused; }
  void TearDown() override {
    if (server_) server_->Shutdown(std::chrono::system_clock::now());
  }

  TestAuthority authority_;
  std::shared_ptr<TlsIdentity> server_identity_, client_identity_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

TEST_F(CredentialsTest, ConnectsPartsThatTrustEachOther) {
  Serve(authority_.Place("worker"), "worker");
  EXPECT_EQ(Greet(authority_.Place("other", authority_.Issue("worker/g0r1")), "worker", "worker"),
            "hello worker/g0r1");
  EXPECT_EQ(server_identity_->facts().refused, 0u);
}

TEST_F(CredentialsTest, TellsACallerOfTheWrongRoleAndTheOperatorSo) {
  Serve(authority_.Place("worker"), "worker");
  EXPECT_THAT(Greet(authority_.Place("gateway"), "gateway", "worker"),
              AllOf(HasSubstr("spiffe://choir/gateway"), HasSubstr("the role of a worker")));
  EXPECT_THAT(LastRefused(), AllOf(HasSubstr("127.0.0.1"), HasSubstr("spiffe://choir/gateway")));
}

TEST_F(CredentialsTest, RefusesAServerOfTheWrongRole) {
  Serve(authority_.Place("gateway"), "gateway");
  EXPECT_THAT(Greet(authority_.Place("worker"), "worker", "worker"),
              HasSubstr("is for spiffe://choir/gateway, the role of a worker is needed"));
  EXPECT_EQ(client_identity_->facts().refused, 1u);
}

TEST_F(CredentialsTest, RefusesExpiredAndForeignCallersWithTheReason) {
  Serve(authority_.Place("worker"), "worker");
  // Its own part would not start with it, so the files are swapped under it.
  const TlsOptions options = authority_.Place("peer", authority_.Issue("worker"));
  const TestAuthority other;
  const struct {
    KeyAndCertificate pair;
    const char* reason;
  } cases[] = {{other.Issue("worker"), "is signed by no authority of --tls-ca"}};
  for (const auto& c : cases) {
    authority_.Place("peer", c.pair);
    EXPECT_THAT(Greet(options, "worker", "worker"), Not(HasSubstr("hello")));
    EXPECT_THAT(LastRefused(), HasSubstr(c.reason));
  }
  // A certificate that runs out while the part runs.
  auto expiring = Open(authority_.Place("peer", authority_.Issue("worker", -3600, 1)), "worker");
  auto credentials = MakeChannelCredentials(expiring, options, address_, "worker");
  ASSERT_TRUE(credentials.ok());
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!::testing::Matches(HasSubstr("expired on"))(LastRefused()) &&
         std::chrono::steady_clock::now() < until) {
    (void)Client(address_, *credentials).Greeting();
  }
  EXPECT_THAT(LastRefused(), HasSubstr("expired on"));
}

TEST_F(CredentialsTest, RefusesPlainTextAndCallersWithoutACertificate) {
  Serve(authority_.Place("worker"), "worker");
  EXPECT_THAT(Client(address_, grpc::InsecureChannelCredentials()).Greeting(),
              Not(HasSubstr("hello")));
  grpc::SslCredentialsOptions plain_tls;
  plain_tls.pem_root_certs = authority_.cert_pem();
  EXPECT_THAT(Client(address_, grpc::SslCredentials(plain_tls)).Greeting(),
              Not(HasSubstr("hello")));
}

TEST_F(CredentialsTest, MayLeaveTheCertificateToTheRpc) {
  Serve(authority_.Place("worker"), "worker", ClientCertificate::kOptional);
  grpc::SslCredentialsOptions plain_tls;
  plain_tls.pem_root_certs = authority_.cert_pem();
  EXPECT_THAT(Client(address_, grpc::SslCredentials(plain_tls)).Greeting(),
              HasSubstr("it shows no certificate, a worker does"));
}

TEST_F(CredentialsTest, ServesReplacedFilesToNewConnectionsAndKeepsTheOpenOnes) {
  const TlsOptions options = authority_.Place("worker");
  Serve(options, "worker");
  client_identity_ = Open(authority_.Place("client", authority_.Issue("worker")), "worker");
  const auto credentials = [&](const char* server_role) {
    return *MakeChannelCredentials(client_identity_, options, address_, server_role);
  };
  Client open(address_, credentials("worker"));
  EXPECT_EQ(open.Greeting(), "hello worker");
  // Broken ones change nothing.
  authority_.Write("worker-key.pem", authority_.Issue("worker").key_pem);
  server_identity_->Poll();
  server_identity_->Poll();
  EXPECT_THAT(server_identity_->facts().problem, HasSubstr("does not match"));
  EXPECT_EQ(Client(address_, credentials("worker")).Greeting(), "hello worker");
  // Good ones are served soon.
  authority_.Place("worker", authority_.Issue("worker/new"));
  server_identity_->Poll();
  server_identity_->Poll();
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  std::string greeting;
  while (greeting != "hello worker" && std::chrono::steady_clock::now() < until) {
    greeting = Client(address_, credentials("worker/new")).Greeting();
  }
  EXPECT_EQ(greeting, "hello worker");
  EXPECT_EQ(open.End(), "ended well");
}

TEST_F(CredentialsTest, DialsNoPlainTextBeyondThisMachine) {
  const auto refused = MakeChannelCredentials(nullptr, {}, "10.0.0.1:7100", "worker");
  EXPECT_THAT(MessageOf(refused.status()), HasSubstr("--insecure"));
  EXPECT_TRUE(MakeChannelCredentials(nullptr, {}, "127.0.0.1:7100", "worker").ok());
}

}  // namespace
}  // namespace choir
