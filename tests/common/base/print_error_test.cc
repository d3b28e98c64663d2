#include "common/base/print_error.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

TEST(PrintError, ShowsControlCharactersAsEscapes) {
  EXPECT_EQ(OneLine("a\nb\x1b[31m\x7f\tc"), "a\\nb\\x1b[31m\\x7f\\x09c");
  EXPECT_EQ(OneLine("gr\xc3\xbc\xc3\x9f"), "gr\xc3\xbc\xc3\x9f");
}

TEST(PrintError, IsOneLineOnStderr) {
  testing::internal::CaptureStderr();
  PrintError("choir x", InvalidArgument("m\nn"));
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "choir x: m\\nn\n");
}

}  // namespace
}  // namespace choir
