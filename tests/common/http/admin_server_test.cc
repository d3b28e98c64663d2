#include "common/http/admin_server.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include "common/base/log.h"
#include "common/metrics/metrics.h"

namespace choir {
namespace {

using boost::asio::ip::tcp;

std::string Ask(const std::string& address, const std::string& text) {
  boost::asio::io_context io;
  tcp::socket socket(io);
  const size_t colon = address.rfind(':');
  socket.connect({boost::asio::ip::make_address(address.substr(0, colon)),
                  static_cast<uint16_t>(std::stoi(address.substr(colon + 1)))});
  boost::system::error_code error;
  boost::asio::write(socket, boost::asio::buffer(text), error);
  std::string out;
  boost::asio::read(socket, boost::asio::dynamic_buffer(out), error);
  return out;
}
std::string Get(const std::string& address, const std::string& path) {
  return Ask(address, "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n");
}

class AdminServerTest : public ::testing::Test {
 protected:
  AdminServerTest() {
    auto started = AdminServer::Start("127.0.0.1:0", {.metrics = [this] { return metrics.Text(); },
                                                      .live = [] { return absl::OkStatus(); },
                                                      .ready = [this] { return ready; },
                                                      .status = [] { return "{\"a\":1}"; }});
    EXPECT_TRUE(started.ok()) << started.status();
    server = std::move(*started);
  }
  Metrics metrics{"test"};
  Status ready = absl::OkStatus();
  std::unique_ptr<AdminServer> server;
};

TEST_F(AdminServerTest, ServesMetricsHealthAndStatus) {
  EXPECT_NE(Get(server->address(), "/metrics").find("choir_build_info{"), std::string::npos);
  EXPECT_NE(Get(server->address(), "/metrics").find("process_cpu_seconds_total"),
            std::string::npos);
  EXPECT_NE(Get(server->address(), "/metrics").find("\nchoir_start_failed 0\n"), std::string::npos);
  EXPECT_TRUE(Get(server->address(), "/livez").starts_with("HTTP/1.1 200"));
  EXPECT_TRUE(Get(server->address(), "/readyz?verbose").starts_with("HTTP/1.1 200"));
  EXPECT_NE(Get(server->address(), "/statusz").find("{\"a\":1}"), std::string::npos);
  EXPECT_TRUE(Get(server->address(), "/nothing").starts_with("HTTP/1.1 404"));
}

TEST_F(AdminServerTest, TheLogLevelIsShownAndChangedByPutOnly) {
  const std::string before = LogLevel();
  const auto put = [this](const std::string& target) {
    return Ask(server->address(), "PUT " + target + " HTTP/1.1\r\nHost: x\r\n\r\n");
  };
  EXPECT_TRUE(put("/loglevel?level=debug").starts_with("HTTP/1.1 200"));
  EXPECT_TRUE(Get(server->address(), "/loglevel").ends_with("debug\n"));
  const std::string wrong = put("/loglevel?level=loud");
  EXPECT_TRUE(wrong.starts_with("HTTP/1.1 400"));
  EXPECT_NE(wrong.find("trace, debug, info"), std::string::npos);
  EXPECT_TRUE(put("/loglevel").starts_with("HTTP/1.1 400"));
  EXPECT_TRUE(Get(server->address(), "/loglevel?level=off").ends_with("debug\n"));
  const std::string posted =
      Ask(server->address(), "POST /loglevel?level=off HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(posted.starts_with("HTTP/1.1 405"));
  EXPECT_NE(posted.find("Allow: GET, HEAD, PUT\r\n"), std::string::npos);
  EXPECT_TRUE(put("/metrics").starts_with("HTTP/1.1 405"));
  EXPECT_TRUE(SetLogLevel(before).ok());
}

TEST_F(AdminServerTest, NotReadySaysWhy) {
  ready = Unavailable("waiting for ranks 1 3");
  const std::string answer = Get(server->address(), "/readyz");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 503")) << answer;
  EXPECT_NE(answer.find("waiting for ranks 1 3"), std::string::npos);
}

TEST_F(AdminServerTest, OddRequestsGetAnAnswerOrAClosedConnection) {
  EXPECT_NE(Ask(server->address(), "POST /metrics HTTP/1.1\r\n\r\n").find("Allow: GET, HEAD"),
            std::string::npos);
  EXPECT_EQ(Ask(server->address(), std::string(64 << 10, 'x')), "");  // header over the limit
  EXPECT_TRUE(Ask(server->address(), "\r\n\r\n").starts_with("HTTP/1.1 405"));
}

TEST_F(AdminServerTest, ATakenPortIsNamed) {
  const auto second = AdminServer::Start(server->address(), {});
  ASSERT_FALSE(second.ok());
  EXPECT_NE(MessageOf(second.status()).find(server->address()), std::string::npos);
}

TEST(MetricsTest, CappedLabelsEndInOther) {
  Metrics metrics("test");
  EXPECT_EQ(metrics.Capped("f", "a", 2), "a");
  EXPECT_EQ(metrics.Capped("f", "b", 2), "b");
  EXPECT_EQ(metrics.Capped("f", "c", 2), "other");
  EXPECT_EQ(metrics.Capped("f", "a", 2), "a");
}

TEST(MetricsTest, SameNameAndLabelsAreOneSeries) {
  Metrics metrics("test");
  metrics.Counter("x_total", "x", {{"k", "v"}}).Increment();
  metrics.Counter("x_total", "x", {{"k", "v"}}).Increment();
  EXPECT_NE(metrics.Text().find("x_total{k=\"v\"} 2"), std::string::npos) << metrics.Text();
}

}  // namespace
}  // namespace choir
