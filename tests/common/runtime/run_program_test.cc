#include "common/runtime/run_program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace choir {
namespace {

TEST(RunProgramTest, GivesTheExitCode) {
  EXPECT_EQ(*RunProgram({"sh", "-c", "exit 7"}, ProgramOutput::kStdout), 7);
  EXPECT_EQ(*RunProgram({"sh", "-c", "kill -9 $$"}, ProgramOutput::kStdout), 128 + 9);
}

TEST(RunProgramTest, SendsTheOutputWhereItIsAsked) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  EXPECT_EQ(*RunProgram({"echo", "one"}, ProgramOutput::kStdout), 0);
  EXPECT_EQ(*RunProgram({"echo", "two"}, ProgramOutput::kStderr), 0);
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "one\n");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "two\n");
}

TEST(RunProgramTest, NamesAProgramThatIsNotThere) {
  const StatusOr<int> code = RunProgram({"no-such-program"}, ProgramOutput::kStdout);
  EXPECT_THAT(MessageOf(code.status()), testing::HasSubstr("no-such-program"));
}

}  // namespace
}  // namespace choir
