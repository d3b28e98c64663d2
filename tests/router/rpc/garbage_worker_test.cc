// Workers that break the protocol: each is cut off and named, and the others serve on.
#include <gmock/gmock.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server_builder.h>

#include <cmath>
#include <functional>

#include "common/base/check.h"
#include "common/http/admin_server.h"
#include "tests/router/rpc/router_fixture.h"

namespace choir {
namespace {

using ::testing::HasSubstr;

// Answers every stream with these bytes, each a message, and then holds it open.
class Scripted final : public grpc::CallbackGenericService {
 public:
  explicit Scripted(std::vector<std::string> messages) : messages_(std::move(messages)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterCallbackGenericService(this);
    server_ = builder.BuildAndStart();
    CHOIR_CHECK(server_ != nullptr);
  }
  ~Scripted() override { server_->Shutdown(std::chrono::system_clock::now()); }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  class Reactor final : public grpc::ServerGenericBidiReactor {
   public:
    explicit Reactor(std::vector<std::string> messages) : messages_(std::move(messages)) {
      StartRead(&in_);
      Next();
    }
    void OnWriteDone(bool ok) override {
      if (ok) Next();
    }
    void OnReadDone(bool ok) override {
      if (ok) StartRead(&in_);
    }
    void OnCancel() override { Finish(grpc::Status::CANCELLED); }
    void OnDone() override { delete this; }

   private:
    void Next() {
      if (at_ == messages_.size()) return;
      const grpc::Slice slice(messages_[at_++]);
      out_ = grpc::ByteBuffer(&slice, 1);
      StartWrite(&out_);
    }
    const std::vector<std::string> messages_;
    size_t at_ = 0;
    grpc::ByteBuffer in_, out_;
  };

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new Reactor(messages_);
  }

  const std::vector<std::string> messages_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

v1::FromWorker Hello(uint32_t version = kProtocolVersion) {
  v1::FromWorker message;
  message.mutable_hello()->set_protocol_version(version);
  message.mutable_hello()->set_worker_id("g9r0");
  message.mutable_hello()->set_model_id("tiny");
  message.mutable_hello()->set_numerics_id("num");
  message.mutable_hello()->set_vocab_size(1000000);
  return message;
}

v1::FromWorker Step(const std::function<void(v1::SequenceUpdate*)>& fill) {
  v1::FromWorker message;
  message.mutable_step()->set_epoch(1);
  fill(message.mutable_step()->add_updates());
  return message;
}

class GarbageWorkerTest : public RouterFixture {
 protected:
  // What the status page says of the worker at `address`, beside a good one; then the good one must
  // still serve.
  void Expect(const std::string& address, const std::string& reason) {
    options_.worker.refused_retry = std::chrono::milliseconds(50);
    options_.worker.backoff_max = std::chrono::milliseconds(100);
    options_.workers = {address};
    StartRouter({&good_}, 1);
    std::string said;
    EXPECT_TRUE(WaitStatus([&](const nlohmann::json& page) {
      for (const auto& worker : page["workers"]) {
        if (worker["address"] == address) said = worker.value("reason", "");
      }
      return said.find(reason) != std::string::npos;
    })) << said;
    const Answer answer = Generate(Prompt("hi", 8, 3));
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.tokens.at(0), 8u);
    ExpectLedgersBalance();
  }
  void Expect(std::vector<v1::FromWorker> messages, const std::string& reason) {
    std::vector<std::string> bytes;
    for (const auto& message : messages) bytes.push_back(message.SerializeAsString());
    const Scripted bad(bytes);
    Expect(bad.address(), reason);
    router_->Stop();
  }
  FakeWorker good_;
};

TEST_F(GarbageWorkerTest, BytesThatAreNoMessage) {
  const Scripted bad({std::string("\xff\xff\xff\xff\x07", 5)});
  Expect(bad.address(), "bytes that are no message of the protocol");
  router_->Stop();
}

TEST_F(GarbageWorkerTest, AServerThatSpeaksSomethingElse) {
  const auto http = AdminServer::Start("127.0.0.1:0", {.metrics = [] { return ""; },
                                                       .live = [] { return absl::OkStatus(); },
                                                       .ready = [] { return absl::OkStatus(); },
                                                       .status = [] { return "{}"; }});
  ASSERT_TRUE(http.ok());
  Expect((*http)->address(), "failed to connect");
}

TEST_F(GarbageWorkerTest, AnotherVersion) {
  Expect({Hello(kProtocolVersion + 7)}, "speaks protocol");
}

TEST_F(GarbageWorkerTest, AStepBeforeTheHello) {
  Expect({Step([](auto* u) { u->set_id(1); })}, "its first message is no hello");
}

TEST_F(GarbageWorkerTest, ASecondHello) { Expect({Hello(), Hello()}, "a second hello"); }

TEST_F(GarbageWorkerTest, TokensOutsideTheVocabulary) {
  Expect({Hello(), Step([](auto* u) { u->add_token_ids(-5); })},
         "token id -5 is outside its vocabulary");
}

TEST_F(GarbageWorkerTest, ListsThatDoNotFitEachOther) {
  Expect({Hello(), Step([](auto* u) {
            u->add_token_ids(1);
            u->add_logprobs()->add_top_ids(1);
          })},
         "1 top ids with 0 log probabilities");
}

TEST_F(GarbageWorkerTest, LogProbabilitiesThatAreNoNumbers) {
  Expect({Hello(), Step([](auto* u) {
            u->add_token_ids(1);
            u->add_logprobs()->set_logprob(std::nanf(""));
          })},
         "is not a number");
}

TEST_F(GarbageWorkerTest, AMessageBeyondTheLimit) {
  v1::FromWorker big = Hello();
  big.mutable_state()->set_reason(std::string(65 << 20, 'x'));
  Expect({big}, "larger than max");
}

}  // namespace
}  // namespace choir
