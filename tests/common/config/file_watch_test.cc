#include "common/config/file_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <future>

#include "common/base/log.h"
#include "tests/support/temp_dir.h"

namespace choir {
namespace {

using testing::HasSubstr;

class FileWatchTest : public testing::Test {
 protected:
  FileWatchTest() {
    EXPECT_TRUE(InitLog("test", "info", "text").ok());
    testing::internal::CaptureStderr();
  }
  static std::string Logged() {
    spdlog::default_logger()->flush();
    return testing::internal::GetCapturedStderr();
  }
  static Status Read(const std::string& text) {
    return text == "good" ? absl::OkStatus() : InvalidArgument("no good: {}", text);
  }

  const TempDir dir_;
  const std::string path_ = dir_.path() + "/file";
};

TEST_F(FileWatchTest, AFirstReadThatFailsIsTheCallersToTell) {
  FileWatch watch(path_, Read);
  EXPECT_THAT(MessageOf(watch.Poll()), HasSubstr(path_));
  EXPECT_EQ(Logged(), "");  // nothing was read before that could stay in force
}

TEST_F(FileWatchTest, AFileThatTurnsBadIsLoggedOnceAndWhatWasReadStays) {
  std::ofstream(path_) << "good";
  {
    FileWatch watch(path_, Read);
    EXPECT_TRUE(watch.Poll().ok());
    std::promise<void> twice;
    int heard = 0;
    watch.OnResult([&](const Status& status) {
      EXPECT_FALSE(status.ok());
      if (++heard == 2) twice.set_value();
    });
    std::filesystem::remove(path_);
    watch.Start(std::chrono::milliseconds(1));
    twice.get_future().wait();
  }
  const std::string log = Logged();
  EXPECT_THAT(log, HasSubstr("what was read before stays in force"));
  EXPECT_EQ(log.find("stays in force"), log.rfind("stays in force"));
}

}  // namespace
}  // namespace choir
