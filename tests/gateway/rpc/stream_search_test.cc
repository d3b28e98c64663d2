#include "gateway/rpc/stream_search.h"

#include <gtest/gtest.h>

#include <map>

#include "tests/gateway/rpc/told_client.h"

namespace choir {
namespace {

// A link to one router that answers when the test says so.
class FakeLink final : public EdgeLink {
 public:
  explicit FakeLink(size_t router) : router_(router) {}
  bool connected() const override { return there; }
  std::string reason() const override { return "refused"; }
  const std::vector<ApiModel>& models() const override { return models_; }
  void Authenticate(EdgeCaller, AuthDone) override {}
  void Explain(const ApiRequest&, const EdgeOpenInfo&, ExplainDone) override {}
  uint64_t Open(const ApiRequest&, size_t, const EdgeOpenInfo&,
                std::shared_ptr<EdgeListener>) override {
    return 0;
  }
  uint64_t Attach(const std::string&, const StreamPosition&, const EdgeOpenInfo&,
                  std::shared_ptr<EdgeListener> listener) override {
    asked = std::move(listener);
    ++asks;
    return router_ + 100;
  }
  void Took(uint64_t, size_t bytes) override { taken += bytes; }
  void Cancel(uint64_t) override { ++cancels; }
  bool reached() const override { return there; }
  bool fit() const override { return there; }
  bool idle() const override { return false; }
  size_t router() const override { return router_; }
  void SetSeeking(bool) override {}

  bool there = true;
  std::shared_ptr<EdgeListener> asked;
  int asks = 0, cancels = 0;
  size_t taken = 0;

 private:
  const size_t router_;
  std::vector<ApiModel> models_;
};

RestError NotFound() { return {.http = 404, .code = "not_found", .message = "no stream"}; }

class StreamSearchTest : public testing::Test, public SearchLinks {
 protected:
  StreamSearchTest() {
    for (size_t i = 0; i < 3; ++i) links_[i] = std::make_unique<FakeLink>(i);
  }
  void Start(Duration ask_time = std::chrono::hours(1)) {
    search_ = std::make_shared<StreamSearch>(io_, this,
                                             StreamSearch::Routers{{1, "b"}, {2, "c"}, {0, "a"}},
                                             SearchedStream{"mine", {}, {}, client_}, ask_time);
    search_->Start();
  }
  EdgeLink& LinkTo(size_t router) override { return *links_.at(router); }
  EdgeLink* LinkOf(uint64_t id) override { return links_.at(id - 100).get(); }
  FakeLink& link(size_t router) { return *links_.at(router); }

  boost::asio::io_context io_;
  std::map<size_t, std::unique_ptr<FakeLink>> links_;
  std::shared_ptr<ToldClient> client_ = std::make_shared<ToldClient>();
  std::shared_ptr<StreamSearch> search_;
};

TEST_F(StreamSearchTest, ItGoesOnAtTheRouterThatHasIt) {
  Start();
  EXPECT_EQ(link(2).asks + link(0).asks, 0);  // one after the other
  link(1).asked->OnError(NotFound());
  EXPECT_EQ(link(1).cancels, 1);
  ASSERT_EQ(link(2).asks, 1);
  link(2).asked->OnAccepted({});
  link(2).asked->OnDelta({.text = "on"}, 9);
  search_->Took(9);
  EXPECT_EQ(link(2).taken, 9u);
  link(2).asked->OnDone({});
  EXPECT_EQ(client_->accepted, 1);
  EXPECT_EQ(client_->text, "on");
  EXPECT_TRUE(client_->done);
  search_->Cancel();  // the client has the end: its router need not keep it
  EXPECT_EQ(link(2).cancels, 1);
  EXPECT_EQ(link(0).asks, 0);
}

TEST_F(StreamSearchTest, OnlyWhenAllWereAskedThereIsNone) {
  Start();
  for (const size_t router : {1, 2, 0}) {
    EXPECT_EQ(client_->error.http, 0);
    link(router).asked->OnError(NotFound());
  }
  EXPECT_EQ(client_->error.http, 404);
  EXPECT_EQ(client_->error.message, "no stream");
}

TEST_F(StreamSearchTest, ARouterThatCannotBeAskedMayHaveIt) {
  link(2).there = false;
  Start();
  link(1).asked->OnError(NotFound());
  EXPECT_TRUE(search_->WaitsFor(2));
  search_->OnLink(2, link(2));  // it failed
  link(0).asked->OnError(NotFound());
  EXPECT_EQ(client_->error.http, 503);
  EXPECT_EQ(client_->error.code, "not_ready");
  EXPECT_NE(client_->error.message.find("c: refused"), std::string::npos);
  EXPECT_GT(client_->error.retry_after_seconds, 0);
}

TEST_F(StreamSearchTest, ItWaitsForAConnection) {
  link(1).there = false;
  Start();
  EXPECT_EQ(link(1).asks, 0);
  link(1).there = true;
  search_->OnLink(1, link(1));
  link(1).asked->OnAccepted({});
  EXPECT_EQ(client_->accepted, 1);
}

TEST_F(StreamSearchTest, ARouterThatHangsIsPassedOver) {
  Start(std::chrono::milliseconds(1));
  io_.run();  // until no time runs any more
  EXPECT_EQ(link(0).asks, 1);
  EXPECT_EQ(link(1).cancels, 1);
  EXPECT_EQ(client_->error.http, 503);
}

TEST_F(StreamSearchTest, OtherErrorsAreTheAnswer) {
  Start();
  link(1).asked->OnError({.http = 403, .code = "permission_error"});
  EXPECT_EQ(client_->error.http, 403);
  EXPECT_EQ(link(2).asks, 0);
}

TEST_F(StreamSearchTest, AClientThatLeavesEndsIt) {
  Start();
  search_->Cancel();
  EXPECT_EQ(link(1).cancels, 1);
  EXPECT_EQ(io_.run(), 1u);  // the time that was running
  EXPECT_EQ(link(2).asks, 0);
}

}  // namespace
}  // namespace choir
