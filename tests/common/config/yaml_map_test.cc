#include "common/config/yaml_map.h"

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

namespace choir {
namespace {

std::string ErrorOf(const std::string& text) {
  return MessageOf(ReadYamlMap(YAML::Load(text), [](const std::string&, const YAML::Node& value) {
    return value.IsScalar() ? absl::OkStatus() : InvalidArgument("must be a single value");
  }));
}

TEST(YamlMapTest, HearsOfEveryEntryInItsOrder) {
  std::string heard;
  const auto see = [&](const std::string& name, const YAML::Node& value) {
    heard += name + "=" + value.Scalar() + " ";
    return absl::OkStatus();
  };
  EXPECT_TRUE(ReadYamlMap(YAML::Load("{b: 1, a: 2}"), see).ok());
  EXPECT_TRUE(ReadYamlMap(YAML::Load(""), see).ok());
  EXPECT_TRUE(ReadYamlMap(YAML::Node(YAML::NodeType::Undefined), see).ok());
  EXPECT_EQ(heard, "b=1 a=2 ");
}

TEST(YamlMapTest, NamesWhatIsWrong) {
  EXPECT_EQ(ErrorOf("[1]"), "must be a mapping, as {name: value, ...}");
  EXPECT_EQ(ErrorOf("{[1]: 2}"), "has a name that is no plain text");
  EXPECT_EQ(ErrorOf("{a: 1, a: 2}"), "a is given twice");
  EXPECT_EQ(ErrorOf("{a: 1, b: [2]}"), "b: must be a single value");
}

}  // namespace
}  // namespace choir
