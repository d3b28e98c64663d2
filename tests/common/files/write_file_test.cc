#include "common/files/write_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "common/config/file_watch.h"
#include "tests/support/temp_dir.h"

namespace choir {
namespace {

namespace fs = std::filesystem;

size_t FilesIn(const std::string& dir) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(dir), fs::directory_iterator()));
}

TEST(WriteFileTest, ReplacesAFileWholeWithItsMode) {
  const TempDir dir;
  const std::string path = dir.path() + "/file";
  for (const mode_t mode : {0600, 0644}) {
    const std::string text(100'000, mode == 0600 ? 'a' : 'b');
    ASSERT_TRUE(WriteFileWhole(path, text, {.mode = mode, .durable = true}).ok());
    EXPECT_EQ(*ReadSmallFile(path), text);
    struct stat st {};
    ASSERT_EQ(stat(path.c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, mode);
  }
  EXPECT_EQ(FilesIn(dir.path()), 1u);
}

TEST(WriteFileTest, MayKeepGroupAndModeOfTheFileThatItReplaces) {
  const TempDir dir;
  const std::string path = dir.path() + "/file";
  const auto mode_after = [&](mode_t before, bool like_replaced) {
    EXPECT_TRUE(WriteFileWhole(path, "old").ok());
    EXPECT_EQ(chmod(path.c_str(), before), 0);
    EXPECT_TRUE(WriteFileWhole(path, "new", {.like_replaced = like_replaced}).ok());
    struct stat now = {};
    EXPECT_EQ(stat(path.c_str(), &now), 0);
    return now.st_mode & 0777;
  };
  EXPECT_EQ(mode_after(0640, false), 0600u);
  EXPECT_EQ(mode_after(0640, true), 0640u);
  EXPECT_EQ(mode_after(0777, true), 0660u) << "others have no business with it";
  EXPECT_TRUE(WriteFileWhole(dir.path() + "/fresh", "", {.like_replaced = true}).ok());
}

TEST(WriteFileTest, AnErrorNamesTheFileAndLeavesNothingBehind) {
  const TempDir dir;
  const Status absent = WriteFileWhole(dir.path() + "/absent/file", "x");
  EXPECT_NE(MessageOf(absent).find("/absent/file: cannot be written: No such"), std::string::npos);
  fs::create_directory(dir.path() + "/taken");
  std::ofstream(dir.path() + "/taken/inside") << "x";
  EXPECT_FALSE(WriteFileWhole(dir.path() + "/taken", "x").ok());
  EXPECT_EQ(FilesIn(dir.path()), 1u);
}

}  // namespace
}  // namespace choir
