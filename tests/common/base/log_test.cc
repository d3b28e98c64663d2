#include "common/base/log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace choir {
namespace {

// What `write` logs, to the end of its last line.
template <typename Write>
std::string Logged(const char* level, const char* format, Write write) {
  EXPECT_TRUE(InitLog("router", level, format).ok());
  testing::internal::CaptureStderr();
  write();
  spdlog::default_logger()->flush();
  return testing::internal::GetCapturedStderr();
}

TEST(Log, TextIsOneLineWithWhatIsNamed) {
  const std::string text = Logged("info", "text", [] {
    LogFields(spdlog::level::info, "request",
              {{"request_id", "req-1"},
               {"error", ""},
               {"reason", "two words\n"},
               {"status", int64_t{200}},
               {"ms", 1.5}});
  });
  EXPECT_TRUE(text.ends_with(
      " info router request request_id=req-1 reason=\"two words\\n\" status=200 ms=1.5\n"))
      << text;
}

TEST(Log, JsonIsAnObjectALine) {
  const std::string text = Logged("info", "json", [] {
    CHOIR_LOG(warn, "said \"so\"\nand \xff{}", 1);
    LogFields(spdlog::level::info, "request", {{"request_id", "req-1"}, {"status", int64_t{200}}});
  });
  const size_t first = text.find('\n');
  const auto said = nlohmann::json::parse(text.substr(0, first));
  EXPECT_EQ(said["message"],
            "said \"so\"\nand \xef\xbf\xbd"
            "1");
  EXPECT_EQ(said["level"], "warning");
  EXPECT_EQ(said["process"], "router");
  EXPECT_EQ(said["time"].get<std::string>().size(), 27u);
  const auto request = nlohmann::json::parse(text.substr(first + 1));
  EXPECT_EQ(request["request_id"], "req-1");
  EXPECT_EQ(request["status"], 200);
  EXPECT_EQ(text.find('\n', first + 1), text.size() - 1);
}

TEST(Log, FieldsBelongToTheirLineOnly) {
  const std::string text = Logged("info", "text", [] {
    LogFields(spdlog::level::info, "one", {{"request_id", "req-1"}});
    CHOIR_LOG(info, "two");
  });
  EXPECT_TRUE(text.ends_with(" two\n")) << text;
}

TEST(Log, TheLevelChangesWhileRunning) {
  const std::string text = Logged("warn", "text", [] {
    CHOIR_LOG(info, "before");
    EXPECT_EQ(LogLevel(), "warn");
    EXPECT_TRUE(SetLogLevel("debug").ok());
    EXPECT_EQ(LogLevel(), "debug");
    CHOIR_LOG(debug, "after");
    EXPECT_FALSE(SetLogLevel("loud").ok());
    EXPECT_EQ(LogLevel(), "debug");
  });
  EXPECT_EQ(text.find("before"), std::string::npos);
  EXPECT_NE(text.find("after"), std::string::npos);
}

TEST(Log, RefusesAFormatThatItDoesNotHave) {
  EXPECT_FALSE(InitLog("router", "info", "xml").ok());
  EXPECT_FALSE(InitLog("router", "loud").ok());
}

}  // namespace
}  // namespace choir
