#include "common/files/json_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/files/read_file.h"
#include "tests/support/temp_dir.h"

namespace choir {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class JsonFile : public testing::Test {
 protected:
  void Write(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }
  std::string Error() const {
    return MessageOf(ReadJsonObject(path_, {.bytes_max = 1000, .values_max = 10}).status());
  }

  const TempDir dir_;
  const std::string path_ = dir_.path() + "/file.json";
};

TEST_F(JsonFile, ReadsAnObject) {
  Write(R"({"a":[1,{"b":null}],"c":"d"})");
  EXPECT_EQ(*ReadJsonObject(path_), nlohmann::json::parse(R"({"a":[1,{"b":null}],"c":"d"})"));
}

TEST_F(JsonFile, SaysWhereItIsMalformed) {
  Write("{\n  a");
  EXPECT_THAT(Error(), HasSubstr(path_ + ": JSON: malformed at line 2, column 3; "));
  for (const char* text : {"", "{\"a\":NaN}", "{\"a\":1e999}", "{\"\xff\":1}", "{}x"}) {
    Write(text);
    EXPECT_THAT(Error(), HasSubstr("JSON: malformed")) << text;
  }
}

TEST_F(JsonFile, RefusesDoubledKeysDepthAndNumberOfValues) {
  Write(R"({"a":{"k":1,"k":2}})");
  EXPECT_THAT(Error(), HasSubstr("k: the key appears twice"));
  Write("{\"a\":" + std::string(40, '[') + std::string(40, ']') + "}");
  EXPECT_THAT(MessageOf(ReadJsonObject(path_).status()), HasSubstr("nested deeper than 32"));
  Write("{\"a\":[1,2,3,4,5,6,7,8,9]}");
  EXPECT_THAT(Error(), HasSubstr("more than 10 values"));
  Write("{\"a\":\"" + std::string(1000, 'x') + "\"}");
  EXPECT_THAT(Error(), HasSubstr("size: "));
  Write("[]");
  EXPECT_THAT(Error(), HasSubstr("an object at the top"));
}

TEST_F(JsonFile, AnAbsentFileIsNullButABrokenLinkIsAnError) {
  EXPECT_TRUE(ReadJsonObjectIfThere(path_)->is_null());
  fs::create_symlink(path_ + ".gone", path_);
  EXPECT_EQ(ReadJsonObjectIfThere(path_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(JsonFile, WaitsForNoPipeAndTakesNoDirectory) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(Error(), HasSubstr("not a regular file"));
  fs::remove(path_);
  fs::create_directory(path_);
  EXPECT_THAT(Error(), HasSubstr("not a regular file"));
  fs::remove(path_);
  fs::create_symlink("/dev/zero", path_);
  EXPECT_THAT(Error(), HasSubstr("not a regular file"));
  fs::remove(path_);
  fs::create_symlink(path_, path_);
  EXPECT_THAT(Error(), HasSubstr("circular"));
}

}  // namespace
}  // namespace choir
