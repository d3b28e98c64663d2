// The worker's gRPC side over loopback, with an engine that only remembers.
#include "worker/rpc/worker_server.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "choir/v1/control.grpc.pb.h"
#include "choir/v1/worker.grpc.pb.h"
#include "common/base/version.h"
#include "tests/support/fake_engine.h"

namespace choir {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// A router's stream.
class Router {
 public:
  Router(const std::string& address, const std::string& id, uint32_t version = kProtocolVersion)
      : stub_(v1::Worker::NewStub(
            grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), FixedWindow()))),
        stream_(stub_->Connect(&context_)) {
    v1::ToWorker hello;
    hello.mutable_hello()->set_protocol_version(version);
    hello.mutable_hello()->set_router_id(id);
    hello.mutable_hello()->set_build("test");
    Send(hello);
  }
  ~Router() {
    context_.TryCancel();
    v1::FromWorker rest;
    while (stream_->Read(&rest)) {
    }
    if (!finished_) (void)stream_->Finish();
  }

  // Else gRPC takes in ever more of what is not read.
  static grpc::ChannelArguments FixedWindow() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    return arguments;
  }
  void Send(const v1::ToWorker& message) { (void)stream_->Write(message); }
  void Submit(uint64_t id, int32_t token = 1) {
    v1::ToWorker message;
    FillSubmit(id, token, message.add_submits());
    Send(message);
  }
  static void FillSubmit(uint64_t id, int32_t token, v1::SubmitSequence* submit) {
    submit->set_id(id);
    submit->add_token_ids(token);
    submit->set_num_prompt_tokens(1);
    submit->mutable_sampling()->set_max_tokens(8);
    submit->mutable_sampling()->set_top_p(1);
    submit->mutable_sampling()->set_num_logprobs(-1);
  }
  v1::FromWorker Read() {
    v1::FromWorker message;
    EXPECT_TRUE(stream_->Read(&message));
    return message;
  }
  grpc::Status End() {
    v1::FromWorker rest;
    while (stream_->Read(&rest)) {
    }
    finished_ = true;
    return stream_->Finish();
  }
  grpc::ClientContext& context() { return context_; }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<v1::Worker::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ToWorker, v1::FromWorker>> stream_;
  bool finished_ = false;
};

class WorkerServerTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({}); }
  void Start(WorkerServerOptions options) {
    options.listen = "127.0.0.1:0";
    options.identity = {.group = 1, .rank = 0, .group_size = 2, .incarnation = 42};
    options.on_drain = [this] {
      server_->SetStatus({.ready = true, .draining = true, .epoch = 5, .reason = ""});
    };
    auto server = WorkerServer::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
  }
  void OpenAndServe() {
    server_->Open({.model_id = "m",
                   .numerics_id = "n",
                   .context_length = 16,
                   .vocab_size = 100,
                   .kv_tokens_max = 999},
                  &engine_);
    server_->SetStatus({.ready = true, .draining = false, .epoch = 5, .reason = ""});
  }
  void Give(SequenceId id, std::vector<int32_t> tokens, Finish finish = Finish::kNone) {
    StepOutput output{.step = ++step_, .load = {.running = 1}};
    output.updates.push_back({.id = id, .tokens = std::move(tokens), .finish = finish});
    server_->Deliver(output);
  }
  bool IsHealthy() {
    auto channel = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
    // health.v1 by hand: field 1 of the answer is the status, 1 is SERVING.
    grpc::GenericStub stub(channel);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    grpc::Slice empty;
    const grpc::ByteBuffer request(&empty, 1);
    const auto call =
        stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
    grpc::ByteBuffer answer;
    grpc::Status status;
    void* tag = nullptr;
    bool ok = false;
    call->StartCall();
    call->Finish(&answer, &status, nullptr);
    queue.Next(&tag, &ok);
    grpc::Slice slice;
    if (!status.ok() || !answer.TrySingleSlice(&slice).ok()) return false;
    return slice.size() == 2 && slice.begin()[0] == 8 && slice.begin()[1] == 1;
  }

  FakeEngine engine_;
  std::unique_ptr<WorkerServer> server_;
  uint64_t step_ = 0;
};

TEST_F(WorkerServerTest, GreetsARouterAndBringsItsTokens) {
  OpenAndServe();
  Router router(server_->address(), "r1");
  const v1::FromWorker hello = router.Read();
  EXPECT_EQ(hello.hello().worker_id(), "g1r0");
  EXPECT_EQ(hello.hello().group_size(), 2u);
  EXPECT_EQ(hello.hello().model_id(), "m");
  EXPECT_EQ(hello.hello().vocab_size(), 100u);
  EXPECT_EQ(hello.hello().kv_tokens_max(), 999u);
  EXPECT_EQ(hello.hello().incarnation(), 42u);
  EXPECT_TRUE(hello.state().ready());
  EXPECT_EQ(hello.state().epoch(), 5u);

  router.Submit(70);
  router.Submit(71);
  const auto submitted = engine_.WaitForSubmits(2);
  ASSERT_EQ(submitted.size(), 2u);
  StepOutput output{.step = 1, .load = {.running = 2, .waiting = 1}};
  for (const auto& [id, request] : submitted) output.updates.push_back({.id = id, .tokens = {9}});
  server_->Deliver(output);
  const v1::FromWorker step = router.Read();
  ASSERT_EQ(step.step().updates_size(), 2) << "one message a step";
  EXPECT_EQ(step.step().epoch(), 5u);
  EXPECT_EQ(step.step().load().waiting(), 1u);
  Give(submitted.begin()->first, {3, 4}, Finish::kLength);
  const v1::FromWorker last = router.Read();
  EXPECT_EQ(last.step().updates(0).token_ids_size(), 2);
  EXPECT_EQ(last.step().updates(0).finish(), v1::FINISH_LENGTH);
  EXPECT_EQ(server_->num_sequences(), 1u);
}

TEST_F(WorkerServerTest, RoutersGetTheirOwnSequencesOnly) {
  OpenAndServe();
  Router a(server_->address(), "a"), b(server_->address(), "b");
  a.Read();
  b.Read();
  a.Submit(1, 11);
  b.Submit(1, 22);
  for (const auto& [id, request] : engine_.WaitForSubmits(2)) {
    Give(id, {request.tokens[0] + 1}, Finish::kStop);
  }
  const auto tokens = [](Router& router) {
    while (true) {
      const v1::FromWorker message = router.Read();
      if (message.step().updates_size() > 0) return message.step().updates(0).token_ids(0);
    }
  };
  EXPECT_EQ(tokens(a), 12);
  EXPECT_EQ(tokens(b), 23);
}

TEST_F(WorkerServerTest, RefusesOtherVersionsByName) {
  OpenAndServe();
  Router router(server_->address(), "r-new", 99);
  const grpc::Status status = router.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(),
              HasSubstr("router r-new (build test) speaks protocol 99, worker g1r0"));
}

TEST_F(WorkerServerTest, SaysThatItLoadsBeforeItIsOpen) {
  server_->SetStatus({.reason = "loading 12 of 80 GB"});
  Router router(server_->address(), "r");
  const grpc::Status status = router.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("loading 12 of 80 GB"));
}

TEST_F(WorkerServerTest, RefusesABadSequenceAndServesOn) {
  OpenAndServe();
  Router router(server_->address(), "r");
  router.Read();
  router.Submit(1, 5000);
  const v1::FromWorker refused = router.Read();
  ASSERT_EQ(refused.step().updates_size(), 1);
  EXPECT_EQ(refused.step().updates(0).finish(), v1::FINISH_REFUSED);
  EXPECT_THAT(refused.step().updates(0).error(), HasSubstr("token id 5000"));
  router.Submit(1, 5);
  EXPECT_EQ(engine_.WaitForSubmits(1).size(), 1u);
}

TEST_F(WorkerServerTest, CutsOffAStreamThatBreaksTheProtocol) {
  OpenAndServe();
  {
    Router router(server_->address(), "r");
    router.Submit(1);
    router.Submit(1);
    const grpc::Status status = router.End();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("sequence 1"));
    EXPECT_EQ(engine_.WaitForCancels(1).size(), 1u) << "what it had is cancelled";
  }
  Router again(server_->address(), "r");
  v1::ToWorker hello;
  hello.mutable_hello()->set_protocol_version(kProtocolVersion);
  hello.mutable_hello()->set_router_id("r");
  again.Send(hello);
  EXPECT_THAT(again.End().error_message(), HasSubstr("second hello"));
}

TEST_F(WorkerServerTest, CancelsAndAcknowledges) {
  OpenAndServe();
  Router router(server_->address(), "r");
  router.Read();
  router.Submit(1);
  const SequenceId id = engine_.WaitForSubmits(1).begin()->first;
  v1::ToWorker cancel;
  cancel.add_cancels(1);
  router.Send(cancel);
  EXPECT_EQ(engine_.WaitForCancels(1).count(id), 1u);
  Give(id, {}, Finish::kCancelled);
  EXPECT_EQ(router.Read().step().updates(0).finish(), v1::FINISH_CANCELLED);
  router.Send(cancel);  // too late: acknowledged again
  EXPECT_EQ(router.Read().step().updates(0).finish(), v1::FINISH_CANCELLED);
}

TEST_F(WorkerServerTest, ReconcilesGhostsAndLostSequences) {
  OpenAndServe();
  Router router(server_->address(), "r");
  router.Read();
  router.Submit(1);
  router.Submit(2);
  const auto submitted = engine_.WaitForSubmits(2);
  v1::ToWorker message;
  message.mutable_reconcile()->add_ids(2);
  message.mutable_reconcile()->add_ids(3);
  router.Send(message);
  const v1::FromWorker answer = router.Read();
  ASSERT_EQ(answer.step().updates_size(), 1);
  EXPECT_EQ(answer.step().updates(0).id(), 3u);
  EXPECT_EQ(answer.step().updates(0).finish(), v1::FINISH_LOST);
  EXPECT_EQ(answer.ghosts(), 1u);
  EXPECT_EQ(server_->num_ghosts(), 1u);
  EXPECT_EQ(engine_.WaitForCancels(1).size(), 1u);
}

TEST_F(WorkerServerTest, AListNamesWhatItsOwnMessageSubmits) {
  OpenAndServe();
  Router router(server_->address(), "r");
  router.Read();
  v1::ToWorker message;
  Router::FillSubmit(1, 1, message.add_submits());
  message.mutable_reconcile()->add_ids(1);
  router.Send(message);
  const auto submitted = engine_.WaitForSubmits(1);
  ASSERT_EQ(submitted.size(), 1u);
  Give(submitted.begin()->first, {9}, Finish::kStop);
  const v1::FromWorker step = router.Read();  // no loss was told before
  ASSERT_EQ(step.step().updates_size(), 1);
  EXPECT_EQ(step.step().updates(0).finish(), v1::FINISH_STOP);
  EXPECT_EQ(server_->num_ghosts(), 0u);
}

TEST_F(WorkerServerTest, ARouterThatComesBackLeavesNothingOnItsOlderStream) {
  OpenAndServe();
  Router older(server_->address(), "r");
  older.Read();
  Router another(server_->address(), "s");
  another.Read();
  older.Submit(1);
  another.Submit(1);
  engine_.WaitForSubmits(2);
  Router newer(server_->address(), "r");
  EXPECT_TRUE(newer.Read().has_hello());
  EXPECT_EQ(newer.Read().ghosts(), 1u);
  EXPECT_EQ(engine_.WaitForCancels(1).size(), 1u);
  EXPECT_EQ(older.End().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(server_->num_sequences(), 1u);
}

TEST_F(WorkerServerTest, ALostRouterTakesItsSequencesWithIt) {
  OpenAndServe();
  {
    Router router(server_->address(), "r");
    router.Read();
    router.Submit(1);
    router.Submit(2);
    engine_.WaitForSubmits(2);
  }
  EXPECT_EQ(engine_.WaitForCancels(2).size(), 2u);
  EXPECT_EQ(server_->num_sequences(), 0u);
}

TEST_F(WorkerServerTest, WhatItCannotTakeNowIsLostNotRefused) {
  OpenAndServe();
  Router router(server_->address(), "r");
  router.Read();
  engine_.SetFull(true);
  router.Submit(1);
  v1::FromWorker answer = router.Read();
  EXPECT_EQ(answer.step().updates(0).finish(), v1::FINISH_LOST);
  EXPECT_THAT(answer.step().updates(0).error(), HasSubstr("full"));
  engine_.SetFull(false);
  server_->SetStatus({.ready = true, .draining = true, .epoch = 5, .reason = ""});
  EXPECT_TRUE(router.Read().state().draining());
  router.Submit(2);
  EXPECT_THAT(router.Read().step().updates(0).error(), HasSubstr("draining"));
  server_->SetStatus(
      {.ready = false, .draining = false, .epoch = 0, .reason = "waiting for ranks 1"});
  EXPECT_EQ(router.Read().state().reason(), "waiting for ranks 1");
  router.Submit(3);
  EXPECT_THAT(router.Read().step().updates(0).error(), HasSubstr("waiting for ranks 1"));
  EXPECT_EQ(server_->num_sequences(), 0u);
}

TEST_F(WorkerServerTest, ANewEpochEndsEverySequenceOfTheOldOne) {
  OpenAndServe();
  Router router(server_->address(), "r");
  router.Read();
  router.Submit(1);
  const SequenceId id = engine_.WaitForSubmits(1).begin()->first;
  server_->SetStatus({.ready = false, .draining = false, .epoch = 0, .reason = "rank 1 left"});
  const v1::FromWorker message = router.Read();
  EXPECT_FALSE(message.state().ready());
  ASSERT_EQ(message.step().updates_size(), 1);
  EXPECT_EQ(message.step().updates(0).finish(), v1::FINISH_LOST);
  EXPECT_EQ(engine_.WaitForCancels(1).count(id), 1u) << "it may not go on in the next epoch";
  EXPECT_EQ(server_->num_sequences(), 0u);
}

TEST_F(WorkerServerTest, ARouterThatDoesNotReadIsCutOffAndHoldsUpNobody) {
  Start({.stream_bytes_max = 200000});
  OpenAndServe();
  Router slow(server_->address(), "slow");
  slow.Submit(1);
  const SequenceId id = engine_.WaitForSubmits(1).begin()->first;
  // Never read: the flow-control window fills, then the queue, then the stream is cut.
  for (int i = 0; i < 2000 && server_->num_sequences() > 0; ++i) {
    Give(id, std::vector<int32_t>(2000, 100));
  }
  EXPECT_EQ(engine_.WaitForCancels(1).count(id), 1u);
}

TEST_F(WorkerServerTest, HealthFollowsReadiness) {
  EXPECT_FALSE(IsHealthy());
  OpenAndServe();
  EXPECT_TRUE(IsHealthy());
  server_->SetStatus({.ready = true, .draining = true, .epoch = 5, .reason = ""});
  EXPECT_FALSE(IsHealthy());
}

TEST_F(WorkerServerTest, AdminDrainBeginsAndWaitsForTheLastSequence) {
  OpenAndServe();
  Router router(server_->address(), "r");
  router.Read();
  router.Submit(1);
  const SequenceId id = engine_.WaitForSubmits(1).begin()->first;
  auto admin = v1::Admin::NewStub(
      grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  v1::DrainRequest request;
  v1::DrainResponse response;
  grpc::ClientContext first;
  ASSERT_TRUE(admin->Drain(&first, request, &response).ok());
  EXPECT_EQ(response.running(), 1u);
  EXPECT_TRUE(router.Read().state().draining());
  std::jthread finisher([&] { Give(id, {1}, Finish::kLength); });
  request.set_timeout_seconds(20);
  grpc::ClientContext second;
  ASSERT_TRUE(admin->Drain(&second, request, &response).ok());
  EXPECT_EQ(response.running(), 0u);
  request.set_timeout_seconds(-1);
  grpc::ClientContext third;
  EXPECT_EQ(admin->Drain(&third, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(WorkerServerTest, ARankWhoseEndpointIsTooLongIsCutOff) {
  const auto end_of_join = [&](size_t segment_bytes, size_t mesh_bytes) {
    auto stub = v1::Group::NewStub(
        grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    auto stream = stub->Join(&context);
    v1::JoinUp message;
    message.mutable_hello()->set_rank(1);
    message.mutable_hello()->set_group_size(2);
    (void)stream->Write(message);
    message.Clear();
    message.set_endpoint_epoch(1);
    message.mutable_endpoint()->set_segment(std::string(segment_bytes, 's'));
    message.mutable_endpoint()->set_mesh(std::string(mesh_bytes, 'm'));
    (void)stream->Write(message);
    (void)stream->WritesDone();
    v1::JoinDown answer;
    while (stream->Read(&answer)) {
    }
    return stream->Finish();
  };
  server_->LeadGroup({.leader = {.group_size = 2}});
  EXPECT_THAT(end_of_join(256, 64 << 10).error_message(), Not(HasSubstr("endpoint")));
  for (const auto& end : {end_of_join(257, 0), end_of_join(0, (64 << 10) + 1)}) {
    EXPECT_EQ(end.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(end.error_message(), HasSubstr("endpoint is too long"));
  }
}

// A stream of raw bytes, until the server ends it.
grpc::Status SendBytes(const std::string& address, const std::string& method,
                       const std::vector<std::string>& messages) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxSendMessageSize(-1);
  grpc::GenericStub stub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  void* tag = nullptr;
  bool ok = false;
  const auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  queue.Next(&tag, &ok);
  for (const std::string& bytes : messages) {
    const grpc::Slice slice(bytes);
    call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    queue.Next(&tag, &ok);
  }
  grpc::ByteBuffer answer;
  do {
    call->Read(&answer, nullptr);
    queue.Next(&tag, &ok);
  } while (ok);
  grpc::Status status;
  call->Finish(&status, nullptr);
  queue.Next(&tag, &ok);
  return status;
}

TEST_F(WorkerServerTest, CutsOffWhatIsNoMessageAndServesOn) {
  OpenAndServe();
  const std::string garbage("\xff\xff\xff\xff\x07", 5);
  v1::ToWorker hello;
  hello.mutable_hello()->set_protocol_version(kProtocolVersion);
  hello.mutable_hello()->set_router_id("r");
  for (const char* method : {"/choir.v1.Worker/Connect", "/choir.v1.Group/Join"}) {
    const grpc::Status status = SendBytes(server_->address(), method, {garbage});
    EXPECT_FALSE(status.ok()) << method;
  }
  const grpc::Status late = SendBytes(server_->address(), "/choir.v1.Worker/Connect",
                                      {hello.SerializeAsString(), garbage});
  EXPECT_EQ(late.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(late.error_message(), HasSubstr("no message of this protocol"));
  const grpc::Status big =
      SendBytes(server_->address(), "/choir.v1.Worker/Connect", {std::string(65 << 20, 'x')});
  EXPECT_EQ(big.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << big.error_message();
  Router router(server_->address(), "good");
  EXPECT_TRUE(router.Read().has_hello());
  EXPECT_EQ(server_->num_routers(), 1u);
}

TEST_F(WorkerServerTest, ATakenPortIsAnErrorThatNamesIt) {
  const auto second = WorkerServer::Start({.listen = server_->address()});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(MessageOf(second.status()), HasSubstr(server_->address()));
}

TEST_F(WorkerServerTest, ShutdownEndsOpenStreams) {
  OpenAndServe();
  Router router(server_->address(), "r");
  router.Read();
  server_->Shutdown(std::chrono::milliseconds(1));
  EXPECT_FALSE(router.End().ok());
}

}  // namespace
}  // namespace choir
