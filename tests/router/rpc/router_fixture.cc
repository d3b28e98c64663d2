#include "tests/router/rpc/router_fixture.h"

#include "common/base/check.h"

namespace choir {

void Answer::Add(const v1::GenerateEvent& event) {
  if (!event.request_id().empty()) {
    request_id = event.request_id();
    seed = event.seed();
  }
  text[event.choice()] += event.text();
  reasoning[event.choice()] += event.reasoning_text();
  tokens[event.choice()] += event.token_ids_size();
  logprobs += event.logprobs_size();
  if (!event.finish_reason().empty()) finish[event.choice()] = event.finish_reason();
  if (event.has_usage()) usage = event.usage();
}

RouterFixture::RouterFixture() : key_(MakeKey("acme", Clock::Real())) {
  options_.listen = "127.0.0.1:0";
  options_.admin = "127.0.0.1:0";
  options_.model_dir = model_.dir();
  options_.model_name = "tiny";
  options_.identity.keys_file = model_.dir() + "/keys.yaml";
  CHOIR_CHECK(SaveKeys(options_.identity.keys_file, {key_.record}).ok());
}

void RouterFixture::StartRouter(const std::vector<const FakeWorker*>& workers, size_t ready) {
  for (const FakeWorker* worker : workers) options_.workers.push_back(worker->address());
  auto router = RouterProcess::Start(options_);
  ASSERT_TRUE(router.ok()) << router.status();
  router_ = *std::move(router);
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Else gRPC takes in ever more of what a test does not read, as much as it thinks that the link
  // carries.
  args.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  channel_ =
      grpc::CreateCustomChannel(router_->grpc_address(), grpc::InsecureChannelCredentials(), args);
  inference_ = v1::Inference::NewStub(channel_);
  edge_ = v1::Edge::NewStub(channel_);
  WaitReady(ready);
}

void RouterFixture::WaitReady(size_t ready) {
  ASSERT_TRUE(WaitStatus([&](const nlohmann::json& page) {
    size_t n = 0;
    for (const auto& worker : page["workers"]) n += worker["state"] == "ready";
    return n == ready;
  })) << StatusPage().dump(1);
}

void RouterFixture::ExpectLedgersBalance() {
  EXPECT_TRUE(WaitStatus([](const nlohmann::json& page) {
    return page["ledgers"]["requests"]["running"] == 0 && page["sequences"]["live"] == 0;
  })) << StatusPage().dump(1);
  const auto page = StatusPage();
  EXPECT_EQ(page["ledgers"]["requests"]["difference"], 0);
  EXPECT_EQ(page["ledgers"]["sequences"]["difference"], 0);
}

std::unique_ptr<grpc::ClientContext> RouterFixture::Context(const std::string& key) {
  auto context = std::make_unique<grpc::ClientContext>();
  context->AddMetadata("authorization", "Bearer " + (key == "-" ? key_.secret : key));
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  return context;
}

v1::GenerateRequest RouterFixture::Prompt(const std::string& text, uint32_t max_tokens,
                                          int64_t seed) {
  v1::GenerateRequest request;
  request.set_model("tiny");
  request.set_prompt(text);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_seed(seed);
  return request;
}

Answer RouterFixture::Generate(const v1::GenerateRequest& request, const std::string& key) {
  Answer answer;
  const auto context = Context(key);
  const auto reader = inference_->Generate(context.get(), request);
  v1::GenerateEvent event;
  while (reader->Read(&event)) answer.Add(event);
  answer.status = reader->Finish();
  return answer;
}

}  // namespace choir
