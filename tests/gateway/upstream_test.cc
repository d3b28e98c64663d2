#include "gateway/upstream.h"

#include <gtest/gtest.h>

#include <map>

namespace choir {
namespace {

// Keeps what was opened; the test plays the router.
class FakeEdge : public EdgeClient {
 public:
  bool connected() const override { return true; }
  std::string reason() const override { return ""; }
  const std::vector<ApiModel>& models() const override { return models_; }
  void Authenticate(EdgeCaller, AuthDone) override {}
  void Explain(const ApiRequest&, const EdgeOpenInfo&, ExplainDone) override {}
  uint64_t Open(const ApiRequest&, size_t prompt, const EdgeOpenInfo& info,
                std::shared_ptr<EdgeListener> listener) override {
    EXPECT_EQ(prompt, listeners.size());
    listeners.push_back(std::move(listener));
    infos.push_back(info);
    return 10 + prompt;
  }
  uint64_t Attach(const std::string& request_id, const StreamPosition& position,
                  const EdgeOpenInfo& info, std::shared_ptr<EdgeListener> listener) override {
    attached = request_id + "@" + PositionId(position);
    listeners.push_back(std::move(listener));
    infos.push_back(info);
    return 10;
  }
  void Took(uint64_t id, size_t bytes) override { took[id] += bytes; }
  void Cancel(uint64_t id) override { cancelled.push_back(id); }

  std::vector<std::shared_ptr<EdgeListener>> listeners;
  std::vector<EdgeOpenInfo> infos;
  std::map<uint64_t, size_t> took;
  std::vector<uint64_t> cancelled;
  std::string attached;

 private:
  std::vector<ApiModel> models_;
};

class UpstreamTest : public testing::Test {
 protected:
  void Open(size_t prompts, const std::string& id = "") {
    request_.prompts.resize(prompts);
    request_.sampling.n = 2;
    EdgeOpenInfo info;
    info.client_request_id = id;
    upstream_->Open(request_, info, 1000);
    upstream_->SetOnLost([this] { ++lost_; });
  }
  static ApiDelta Text(uint32_t choice, const char* text) {
    ApiDelta delta;
    delta.choice = choice;
    delta.text = text;
    return delta;
  }

  boost::asio::io_context io_;
  FakeEdge edge_;
  ApiRequest request_;
  std::shared_ptr<Upstream> upstream_ = std::make_shared<Upstream>(io_, &edge_);
  int lost_ = 0;
};

TEST_F(UpstreamTest, OnePromptKeepsTheRoutersName) {
  Open(1, "mine");
  EXPECT_EQ(edge_.infos[0].client_request_id, "mine");
  EXPECT_EQ(edge_.infos[0].window_bytes, 1000u);
  edge_.listeners[0]->OnAccepted({.request_id = "req-1", .audit_receipt = "", .headers = {}});
  EXPECT_TRUE(upstream_->accepted());
  EXPECT_EQ(upstream_->accepted_info().request_id, "req-1");
}

TEST_F(UpstreamTest, ABatchIsOneRequestAgain) {
  Open(2, "mine");
  EXPECT_EQ(edge_.infos[0].client_request_id, "mine.0");
  EXPECT_EQ(edge_.infos[1].client_request_id, "mine.1");
  EXPECT_EQ(edge_.infos[1].window_bytes, 500u);
  edge_.listeners[1]->OnAccepted({.request_id = "mine.1", .audit_receipt = "", .headers = {}});
  EXPECT_FALSE(upstream_->accepted());
  edge_.listeners[0]->OnAccepted({.request_id = "mine.0", .audit_receipt = "", .headers = {}});
  ASSERT_TRUE(upstream_->accepted());
  EXPECT_EQ(upstream_->accepted_info().request_id, "mine");
  edge_.listeners[1]->OnDelta(Text(1, "b"), 10);
  edge_.listeners[0]->OnDelta(Text(0, "a"), 20);
  const auto deltas = upstream_->TakeDeltas();
  ASSERT_EQ(deltas.size(), 2u);
  EXPECT_EQ(deltas[0].choice, 3u);
  EXPECT_EQ(deltas[1].choice, 0u);
  edge_.listeners[0]->OnDone({1, 2, 3, 4});
  EXPECT_FALSE(upstream_->done());
  edge_.listeners[1]->OnDone({10, 20, 30, 40});
  ASSERT_TRUE(upstream_->done());
  EXPECT_EQ(upstream_->usage().prompt_tokens, 11u);
  EXPECT_EQ(upstream_->usage().output_tokens, 33u);
  upstream_->Cancel();
  EXPECT_EQ(edge_.cancelled, (std::vector<uint64_t>{10, 11}));
}

TEST_F(UpstreamTest, ANameThatGrowsTooLongIsLeftToTheRouter) {
  const std::string longest(128, 'x');
  Open(2, longest);
  EXPECT_EQ(edge_.infos[0].client_request_id, "");
  edge_.listeners[0]->OnError({.http = 400, .type = "t", .code = "c", .message = "m"});
  EXPECT_EQ(upstream_->error().request_id, longest);
}

TEST_F(UpstreamTest, RoomIsGivenBackWhenTheClientTookTheBytes) {
  Open(2);
  edge_.listeners[0]->OnDelta(Text(0, "a"), 20);
  edge_.listeners[1]->OnDelta(Text(0, "b"), 7);
  upstream_->Took();
  EXPECT_TRUE(edge_.took.empty()) << "nothing was even taken out";
  (void)upstream_->TakeDeltas();
  edge_.listeners[0]->OnDelta(Text(0, "c"), 5);  // while the others are being written
  upstream_->Took();
  EXPECT_EQ(edge_.took, (std::map<uint64_t, size_t>{{10, 20}, {11, 7}}));
  (void)upstream_->TakeDeltas();
  upstream_->Took();
  EXPECT_EQ(edge_.took[10], 25u);
}

TEST_F(UpstreamTest, OnlyAStreamOfOnePromptCanBeTakenUp) {
  for (const size_t prompts : {1u, 2u}) {
    edge_ = FakeEdge();
    upstream_ = std::make_shared<Upstream>(io_, &edge_);
    request_.prompts.resize(prompts);
    EdgeOpenInfo info;
    info.resume_state = "state";
    upstream_->Open(request_, info, 1000);
    EXPECT_EQ(edge_.infos[0].resume_state, prompts == 1 ? "state" : "");
  }
}

TEST_F(UpstreamTest, AStreamIsTakenUpUnderItsName) {
  upstream_->Attach("mine", {{.begun = true, .tokens = 7}}, {});
  EXPECT_EQ(edge_.attached, "mine@7");
  edge_.listeners[0]->OnAccepted({.request_id = "mine", .resume_state = "state"});
  EXPECT_TRUE(upstream_->accepted());
  EXPECT_EQ(upstream_->accepted_info().resume_state, "state");
  edge_.listeners[0]->OnDelta(Text(1, "b"), 10);
  EXPECT_EQ(upstream_->TakeDeltas()[0].choice, 1u);
  edge_.listeners[0]->OnDone({.output_tokens = 3});
  EXPECT_TRUE(upstream_->done());
  upstream_->Cancel();
  EXPECT_EQ(edge_.cancelled, (std::vector<uint64_t>{10}));
}

TEST_F(UpstreamTest, TheFirstErrorDecidesAndNothingFollows) {
  Open(2);
  edge_.listeners[1]->OnError({.http = 404, .type = "t", .code = "first", .message = "m"});
  edge_.listeners[0]->OnError({.http = 400, .type = "t", .code = "second", .message = "m"});
  edge_.listeners[0]->OnDelta(Text(0, "late"), 5);
  EXPECT_EQ(upstream_->error().code, "first");
  EXPECT_TRUE(upstream_->TakeDeltas().empty());
  EXPECT_EQ(lost_, 0);
}

TEST_F(UpstreamTest, ARouterThatWaitedTooLongForTheClientEndsIt) {
  Open(1);
  edge_.listeners[0]->OnDelta(Text(0, "a"), 20);
  edge_.listeners[0]->OnError({.http = 499, .type = "cancelled", .code = "c", .message = "m"});
  EXPECT_TRUE(upstream_->client_gone());
  EXPECT_FALSE(upstream_->failed());
  EXPECT_TRUE(upstream_->TakeDeltas().empty());
  upstream_->OnClientGone();
  EXPECT_EQ(lost_, 1) << "told once";
}

}  // namespace
}  // namespace choir
