#include "tools/load/sse_reader.h"

#include <gmock/gmock.h>

#include <vector>

namespace choir {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

using Events = std::vector<std::pair<std::string, std::string>>;

Events Read(SseReader* reader, std::string_view bytes) {
  Events events;
  EXPECT_TRUE(reader->Push(bytes, [&](std::string_view block, std::string_view data) {
    events.emplace_back(block, data);
    return true;
  }));
  return events;
}

TEST(SseReaderTest, EventsComeWholeHoweverTheyAreCut) {
  const std::string body = "data: {\"a\":1}\n\n: keep-alive\nid: 7\ndata: b\n\ndata: c";
  for (size_t cut = 0; cut <= body.size(); ++cut) {
    SseReader reader;
    Events events = Read(&reader, std::string_view(body).substr(0, cut));
    for (auto& event : Read(&reader, std::string_view(body).substr(cut))) {
      events.push_back(std::move(event));
    }
    EXPECT_THAT(events,
                ElementsAre(Pair("data: {\"a\":1}", "{\"a\":1}"), Pair("id: 7\ndata: b", "b")));
    EXPECT_EQ(reader.rest(), "data: c");
  }
}

TEST(SseReaderTest, CommentsBeforeAnEventAreNotPartOfIt) {
  SseReader reader;
  EXPECT_THAT(Read(&reader, ": keep-alive\n: keep-alive\nevent: error\ndata: x\n\n"),
              ElementsAre(Pair("event: error\ndata: x", "x")));
}

TEST(SseReaderTest, ABlockOfCommentsIsNoEvent) {
  SseReader reader;
  EXPECT_THAT(Read(&reader, ": data: no\n\n: again\n:\n\n"), ElementsAre());
  EXPECT_EQ(reader.rest(), "");
}

TEST(SseReaderTest, StopsWhenTheReaderOfEventsDoes) {
  SseReader reader;
  int events = 0;
  EXPECT_FALSE(reader.Push("data: 1\n\ndata: 2\n\n", [&](auto, auto) { return ++events > 1; }));
  EXPECT_EQ(events, 1);
}

}  // namespace
}  // namespace choir
