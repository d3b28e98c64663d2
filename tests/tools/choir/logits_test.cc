// choir logits as a user calls it.
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/golden/golden.h"
#include "tests/support/model_dir.h"
#include "tools/choir/commands.h"

namespace choir {
namespace {

class LogitsCommand : public testing::Test {
 protected:
  int Run(std::vector<std::string> more, const std::string& ids) {
    dir_.Write("ids.json", ids);
    std::vector<std::string> args = {"choir logits",
                                     "--model",
                                     golden::Dir("tiny_glm4_moe"),
                                     "--ids",
                                     dir_.File("ids.json"),
                                     "--out",
                                     out_,
                                     "--threads",
                                     "2"};
    args.insert(args.end(), more.begin(), more.end());
    std::vector<const char*> argv;
    for (const std::string& a : args) argv.push_back(a.c_str());
    testing::internal::CaptureStderr();
    const int code = RunLogits(static_cast<int>(argv.size()), argv.data());
    message_ = testing::internal::GetCapturedStderr();
    return code;
  }

  const ModelDir dir_{""};
  std::string out_ = dir_.File("out.npy");
  std::string message_;
};

TEST_F(LogitsCommand, WritesAllRowsAsNpyForAnyRanksAndChunk) {
  const golden::Checkpoint checkpoint = golden::Load("tiny_glm4_moe");
  const golden::Prompt& prompt = checkpoint.prompts[1];
  const std::string ids = nlohmann::json(prompt.ids).dump();
  ASSERT_EQ(Run({}, ids), 0) << message_;
  const std::string file = dir_.Read("out.npy");
  ASSERT_EQ(file.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  const size_t header = 10 + static_cast<uint8_t>(file[8]) + 256 * static_cast<uint8_t>(file[9]);
  EXPECT_EQ(header % 64, 0u);
  EXPECT_NE(file.find("'<f4', 'fortran_order': False, 'shape': (17, 302)"), std::string::npos);
  const auto vocab = static_cast<size_t>(checkpoint.vocab);
  ASSERT_EQ(file.size(), header + prompt.ids.size() * vocab * sizeof(float));
  std::vector<float> last(vocab);
  std::memcpy(last.data(), file.data() + file.size() - vocab * sizeof(float),
              vocab * sizeof(float));
  EXPECT_LT(golden::RelativeError(last, prompt.logits.back()), 1e-4f);
  ASSERT_EQ(Run({"--ranks", "3", "--prefill-chunk", "5"}, ids), 0) << message_;
  EXPECT_EQ(dir_.Read("out.npy"), file);
}

TEST_F(LogitsCommand, NamesWhatIsWrongWithTheIds) {
  for (const char* ids : {"[]", "[302]", "[-1]", "[1.5]", "{}", "[1,", "[\"a\"]"}) {
    EXPECT_EQ(Run({}, ids), 1) << ids;
    EXPECT_NE(message_.find("ids.json"), std::string::npos) << message_;
  }
}

TEST_F(LogitsCommand, EndsWithTwoOnWrongUsage) {
  EXPECT_EQ(Run({"--ranks", "0"}, "[1]"), 2);
  EXPECT_EQ(Run({"--dtype", "q4"}, "[1]"), 2);
  EXPECT_EQ(Run({"--prefill-chunk", "x"}, "[1]"), 2);
}

TEST_F(LogitsCommand, EndsWithOneWhenTheFileCannotBeWritten) {
  out_ = "/nonexistent/x.npy";
  EXPECT_EQ(Run({}, "[1]"), 1);
  EXPECT_NE(message_.find(out_), std::string::npos) << message_;
}

}  // namespace
}  // namespace choir
