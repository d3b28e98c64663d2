// The gateway's side of the edge with routers of the test's own, over sockets.
#include <gtest/gtest.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include "gateway/rpc/edge_client.h"
#include "tests/gateway/rpc/fake_edge.h"
#include "tests/gateway/rpc/told_client.h"

namespace choir {
namespace {

v1::EdgeError NotHere() {
  v1::EdgeError error;
  error.set_http(404);
  error.set_code("not_found");
  return error;
}

class EdgeSwitchTest : public testing::Test {
 protected:
  void Connect(std::vector<const FakeEdge*> routers, EdgeClientOptions options = {}) {
    for (const FakeEdge* router : routers) options.routers.push_back(router->address());
    edge_ = EdgeClient::Make(io_, options);
    RunUntil([&] { return edge_->connected(); });
  }
  template <typename Condition>
  void RunUntil(Condition condition) {
    while (!condition()) io_.run_one();
  }
  void Attach() {
    edge_->Attach("mine", {}, {.timeout_ms = 60'000}, client_);
    RunUntil([&] { return client_->done || !client_->error.ok(); });
  }

  boost::asio::io_context io_;
  const boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{
      io_.get_executor()};
  std::unique_ptr<EdgeClient> edge_;
  const std::shared_ptr<ToldClient> client_ = std::make_shared<ToldClient>();
};

TEST_F(EdgeSwitchTest, AStreamThatWasTakenUpStaysAtItsRouterWhenItsLinkBreaks) {
  FakeEdge other([](const v1::EdgeOpen&, v1::EdgeDown* down) {
    *down->add_events()->mutable_error() = NotHere();
    return true;
  });
  FakeEdge holder([](const v1::EdgeOpen& open, v1::EdgeDown* down) {
    const bool again = open.attach().positions_size() != 0;
    down->add_events()->mutable_accepted()->set_request_id("mine");
    v1::GenerateEvent* delta = down->add_events()->mutable_delta();
    delta->set_text(again ? "on" : "it goes ");
    delta->add_token_ids(again ? 2 : 1);
    if (again) down->add_events()->mutable_done();
    return again;
  });
  Connect({&holder, &other});
  Attach();
  ASSERT_TRUE(client_->error.ok()) << client_->error.http << " " << client_->error.message;
  EXPECT_EQ(client_->text, "it goes on");
  EXPECT_EQ(client_->accepted, 1);
  ASSERT_EQ(holder.opens().size(), 2u);
  EXPECT_EQ(holder.opens()[1].attach().positions(0).tokens(), 1u);
  EXPECT_TRUE(other.opens().empty());
}

TEST_F(EdgeSwitchTest, AStreamWhoseRouterIsGoneIsGivenUpInTime) {
  FakeEdge other([](const v1::EdgeOpen&, v1::EdgeDown* down) {
    *down->add_events()->mutable_error() = NotHere();
    return true;
  });
  auto holder = std::make_unique<FakeEdge>([](const v1::EdgeOpen&, v1::EdgeDown* down) {
    down->add_events()->mutable_accepted()->set_request_id("mine");
    return true;
  });
  Connect({holder.get(), &other}, {.router_timeout = std::chrono::milliseconds(100)});
  edge_->Attach("mine", {}, {.timeout_ms = 3'600'000}, client_);
  RunUntil([&] { return client_->accepted == 1; });
  holder.reset();
  RunUntil([&] { return !client_->error.ok(); });
  EXPECT_EQ(client_->error.http, 503);  // not 404: it may be there, and the client may ask again
  EXPECT_GT(client_->error.retry_after_seconds, 0);
}

TEST_F(EdgeSwitchTest, ARouterThatAllowsFewPingsGetsFewer) {
  // gRPC's own limit: one in five minutes.
  FakeEdge strict([](const v1::EdgeOpen&, v1::EdgeDown*) { return true; });
  FakeEdge other([](const v1::EdgeOpen&, v1::EdgeDown*) { return true; });
  Connect({&strict, &other}, {.ping_interval = std::chrono::milliseconds(10)});
  RunUntil([&] { return strict.num_streams() == 2; });
  RunUntil([&] { return edge_->connected(); });
  io_.run_for(std::chrono::milliseconds(500));  // time for many of them
  EXPECT_TRUE(edge_->connected()) << edge_->reason();
  EXPECT_EQ(strict.num_streams(), 2);
  EXPECT_EQ(other.num_streams(), 0);
}

TEST_F(EdgeSwitchTest, ARouterThatAllowedFewPingsIsTriedAsAnyOtherLater) {
  FakeEdge strict([](const v1::EdgeOpen&, v1::EdgeDown*) { return true; });
  Connect({&strict}, {.ping_interval = std::chrono::milliseconds(10), .slow_for = Duration(0)});
  RunUntil([&] { return strict.num_streams() == 4; });  // each is pinged too often again
}

}  // namespace
}  // namespace choir
