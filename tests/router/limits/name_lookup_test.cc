// Names, with name servers of the test's own.
#include "router/limits/redis/name_lookup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/udp.hpp>
#include <optional>

#include "router/limits/redis/redis_connection.h"
#include "tests/support/task_inbox.h"

namespace choir {
namespace {

namespace asio = boost::asio;
using asio::ip::udp;
using Endpoints = StatusOr<std::vector<asio::ip::tcp::endpoint>>;

// A name server on a free port of this machine.
class NameServer {
 public:
  explicit NameServer(asio::io_context& io)
      : socket_(io, udp::endpoint(asio::ip::address_v4::loopback(), 0)) {}
  std::string address() const {
    return "127.0.0.1:" + std::to_string(socket_.local_endpoint().port());
  }
  // Blocks until a question came, which is the test's.
  void AwaitQuestion() { size_ = socket_.receive_from(asio::buffer(question_), asker_); }
  // From now on: the address 10.1.2.3 for every name, or none ("no such name"); of other types
  // nothing is there.
  void Answer(bool known) {
    socket_.async_receive_from(asio::buffer(question_), asker_, [this, known](auto error, auto n) {
      if (error) return;
      size_ = n;
      Reply(known);
      Answer(known);
    });
  }

 private:
  void Reply(bool known) {
    const bool has = known && question_[size_ - 3] == 1;  // of type A
    std::string out(question_.data(), size_);
    out[2] = '\x81';
    out[3] = static_cast<char>(known ? 0x80 : 0x83);
    out[7] = has ? 1 : 0;
    out[9] = out[11] = 0;  // no authority, and none of the additional records of the question
    const size_t end = out.find('\0', 12) + 5;
    out.resize(end);
    if (has) out += std::string("\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x0a\1\2\3", 16);
    socket_.send_to(asio::buffer(out), asker_);
  }

  udp::socket socket_;
  udp::endpoint asker_;
  std::array<char, 2048> question_{};
  size_t size_ = 0;
};

class NameLookupTest : public testing::Test {
 protected:
  Endpoints Find(const std::string& servers, const std::string& host) {
    NameLookup lookup(io_, {.timeout = std::chrono::seconds(30), .servers = servers});
    std::optional<Endpoints> found;
    Begin(lookup, host, &found);
    while (!found) io_.run_one();
    return *found;
  }
  void Begin(NameLookup& lookup, const std::string& host, std::optional<Endpoints>* found) {
    asio::co_spawn(
        io_,
        [&lookup, host, found]() -> asio::awaitable<void> {
          *found = co_await lookup.Find(host, 6379);
        },
        asio::detached);
  }
  static std::string Text(const Endpoints& found) {
    if (!found.ok()) return MessageOf(found.status());
    std::string text;
    for (const auto& endpoint : *found) {
      text += endpoint.address().to_string() + ":" + std::to_string(endpoint.port()) + " ";
    }
    return text;
  }

  asio::io_context io_;
};

TEST_F(NameLookupTest, AnAddressIsWhatItIs) {
  EXPECT_EQ(Text(Find("", "10.0.0.9")), "10.0.0.9:6379 ");
  EXPECT_EQ(Text(Find("", "fd00::9")), "fd00::9:6379 ");
}

TEST_F(NameLookupTest, AServerTells) {
  NameServer server(io_);
  server.Answer(true);
  EXPECT_EQ(Text(Find(server.address(), "redis.test")), "10.1.2.3:6379 ");
}

TEST_F(NameLookupTest, ANameThatIsNotThereIsNotFound) {
  NameServer server(io_);
  server.Answer(false);
  const Endpoints found = Find(server.address(), "redis.test");
  EXPECT_TRUE(absl::IsNotFound(found.status())) << Text(found);
  EXPECT_THAT(Text(found), testing::HasSubstr("redis.test: no such name"));
}

TEST_F(NameLookupTest, TheNextServerIsAskedWhenTheFirstIsSilent) {
  NameServer silent(io_), server(io_);
  server.Answer(true);
  EXPECT_EQ(Text(Find(silent.address() + "," + server.address(), "redis.test")), "10.1.2.3:6379 ");
}

TEST_F(NameLookupTest, ItEndsWhenItIsCancelled) {
  NameServer silent(io_);
  NameLookup lookup(io_, {.timeout = std::chrono::hours(1), .servers = silent.address()});
  std::optional<Endpoints> found;
  Begin(lookup, "redis.test", &found);
  io_.poll();
  silent.AwaitQuestion();
  lookup.Cancel();
  io_.run();  // until nothing at all is left
  ASSERT_TRUE(found);
  EXPECT_FALSE(found->ok());
}

TEST_F(NameLookupTest, AConnectionEndsWhileItsNameIsLookedUp) {
  NameServer silent(io_);
  TaskInbox inbox;
  RedisConnectionOptions options{
      .address = {.host = "redis.test"},
      .lookup = {.timeout = std::chrono::hours(1), .servers = silent.address()}};
  const auto connection = ConnectToRedis(std::move(options), inbox.post());
  connection->SetEvents({.up = [] {}, .down = [](const std::string&) {}, .tick = [] {}});
  silent.AwaitQuestion();
}

}  // namespace
}  // namespace choir
