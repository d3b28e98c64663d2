#include "gateway/rpc/open_request.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

using std::chrono::milliseconds;

v1::EdgeOpen Message(uint64_t window_bytes = 0) {
  v1::EdgeOpen message;
  message.set_id(7);
  message.mutable_generate()->set_prompt("hi");
  message.set_window_bytes(window_bytes);
  return message;
}

v1::EdgeAccepted Accepted(const std::string& receipt) {
  v1::EdgeAccepted accepted;
  accepted.set_request_id("r");
  accepted.set_seed(5);
  accepted.set_audit_receipt(receipt);
  return accepted;
}

v1::GenerateEvent Delta(uint32_t choice, const std::string& text, std::vector<int32_t> tokens) {
  v1::GenerateEvent delta;
  delta.set_choice(choice);
  delta.set_text(text);
  delta.mutable_token_ids()->Add(tokens.begin(), tokens.end());
  return delta;
}

TEST(OpenRequestTest, WhatWasNotAcceptedBeginsAnew) {
  OpenRequest request(Message());
  const v1::EdgeOpen again = request.Again(milliseconds(500));
  EXPECT_FALSE(again.has_resume());
  EXPECT_EQ(again.generate().prompt(), "hi");
  EXPECT_EQ(again.timeout_ms(), 500u);
  EXPECT_EQ(request.Again(milliseconds(-3)).timeout_ms(), 1u) << "0 would be the router's default";
}

TEST(OpenRequestTest, GoesOnBehindWhatWasDelivered) {
  OpenRequest request(Message());
  EXPECT_TRUE(request.OnAccepted(Accepted("a:1")));
  request.OnDelta(Delta(1, "ab", {3, 4}), 10);
  request.OnDelta(Delta(1, "c", {5}), 10);
  v1::GenerateEvent thought = Delta(0, "", {6});
  thought.set_reasoning_text("hm");
  request.OnDelta(thought, 10);
  const v1::EdgeResume resume = request.Again(milliseconds(1)).resume();
  EXPECT_EQ(resume.request_id(), "r");
  EXPECT_EQ(resume.seed(), 5);
  EXPECT_EQ(resume.audit_receipt(), "a:1");
  ASSERT_EQ(resume.choices_size(), 2);
  EXPECT_EQ(resume.choices(0).reasoning_bytes(), 2u);
  EXPECT_EQ(resume.choices(1).text_bytes(), 3u);
  EXPECT_EQ(resume.choices(1).token_ids_size(), 3);
}

TEST(OpenRequestTest, ASecondLossNamesTheSecondRouter) {
  OpenRequest request(Message());
  EXPECT_TRUE(request.OnAccepted(Accepted("a:1")));
  request.OnDelta(Delta(0, "a", {1}), 1);
  request.Again(milliseconds(1));
  EXPECT_FALSE(request.OnAccepted(Accepted("b:9"))) << "its listener knows";
  request.OnDelta(Delta(0, "b", {2}), 1);
  const v1::EdgeResume resume = request.Again(milliseconds(1)).resume();
  EXPECT_EQ(resume.audit_receipt(), "b:9");
  ASSERT_EQ(resume.choices_size(), 1);
  EXPECT_EQ(resume.choices(0).text_bytes(), 2u);
}

TEST(OpenRequestTest, GivesRoomBackByHalfAWindow) {
  OpenRequest request(Message(100));
  request.OnDelta(Delta(0, "a", {1}), 60);
  request.OnTaken(49);
  EXPECT_EQ(request.TakeGrant(), 0u);
  request.OnTaken(1);
  EXPECT_EQ(request.TakeGrant(), 50u);
  EXPECT_EQ(request.TakeGrant(), 0u);
  OpenRequest unbounded(Message());
  unbounded.OnTaken(1000);
  EXPECT_EQ(unbounded.TakeGrant(), 0u);
}

TEST(OpenRequestTest, TheNextRouterHasTheRoomThatIsLeft) {
  OpenRequest request(Message(100));
  request.OnDelta(Delta(0, "a", {1}), 60);
  request.OnTaken(20);
  EXPECT_EQ(request.Again(milliseconds(1)).window_bytes(), 60u);
  EXPECT_EQ(request.TakeGrant(), 0u) << "what was taken is in the new window";
  request.OnDelta(Delta(0, "a", {1}), 500);
  EXPECT_EQ(request.Again(milliseconds(1)).window_bytes(), 1u) << "0 would be no limit";
}

TEST(OpenRequestTest, AnAttachedStreamAdvancesItsPosition) {
  v1::EdgeOpen message;
  v1::EdgePosition* position = message.mutable_attach()->add_positions();
  position->set_choice(0);
  position->set_tokens(4);
  OpenRequest request(message);
  request.OnAccepted(Accepted("a:1"));
  request.OnDelta(Delta(0, "a", {1, 2}), 1);
  request.OnDelta(Delta(2, "a", {1}), 1);
  request.Again(milliseconds(1));
  request.OnDelta(Delta(0, "a", {3}), 1);
  const v1::EdgeOpen again = request.Again(milliseconds(1));
  EXPECT_FALSE(again.has_resume());
  ASSERT_EQ(again.attach().positions_size(), 2);
  EXPECT_EQ(again.attach().positions(0).tokens(), 7u);
  EXPECT_EQ(again.attach().positions(1).choice(), 2u);
  EXPECT_EQ(again.attach().positions(1).tokens(), 1u);
}

}  // namespace
}  // namespace choir
