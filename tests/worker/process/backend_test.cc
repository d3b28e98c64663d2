#include "worker/backend.h"

#include <gmock/gmock.h>

namespace choir {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string Fake(const std::string& name) { return CHOIR_FAKE_MODULES "/fake_" + name + ".so"; }

TEST(Backend, IsTheCpuUnlessAskedOtherwise) {
  const auto backend = OpenBackend("cpu", "portable", 0, "/nowhere");
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ(backend->kernels->Name(), "cpu-portable");
  EXPECT_EQ(backend->device(), &HostDevice());
  EXPECT_EQ(backend->why_cpu, "");
  EXPECT_FALSE(OpenBackend("cpu", "abacus", 0, "/nowhere").ok());
}

TEST(Backend, CudaWithoutAGpuIsAnErrorThatSaysWhatIsMissing) {
  const std::pair<std::string, const char*> cases[] = {{"/nowhere", "no CUDA module"},
                                                       {Fake("other_version"), "another version"},
                                                       {Fake("no_driver"), "no NVIDIA driver"},
                                                       {Fake("old_driver"), "too old"},
                                                       {Fake("no_device"), "CUDA_VISIBLE_DEVICES"},
                                                       {Fake("failed"), "Xid"}};
  for (const auto& [module, words] : cases) {
    const Status status = OpenBackend("cuda", "auto", 0, module).status();
    EXPECT_FALSE(status.ok()) << module;
    EXPECT_THAT(MessageOf(status), AllOf(HasSubstr("--device cuda: "), HasSubstr(words)));
  }
}

TEST(Backend, CudaComputesOnTheCardOfItsIndex) {
  for (const auto& [index, card] : {std::pair(0, 0), {3, 3}, {11, 3}}) {
    const auto backend = OpenBackend("cuda", "auto", index, CHOIR_EMULATED_MODULE);
    ASSERT_TRUE(backend.ok()) << backend.status();
    EXPECT_EQ(backend->device()->Name(), fmt::format("cuda:{} (an emulated card)", card));
    EXPECT_EQ(backend->kernels->Name(), "cuda-tensor-emulated-sm90");
    EXPECT_EQ(backend->why_cpu, "");
  }
  EXPECT_NE(OpenBackend("auto", "auto", 0, CHOIR_EMULATED_MODULE)->gpu, nullptr);
}

TEST(Backend, AutoTakesTheCpuAndSaysWhy) {
  const auto missing = OpenBackend("auto", "auto", 0, Fake("no_driver"));
  ASSERT_TRUE(missing.ok()) << missing.status();
  EXPECT_EQ(missing->device(), &HostDevice());
  EXPECT_THAT(missing->kernels->Name(), HasSubstr("cpu-"));
  EXPECT_THAT(missing->why_cpu, HasSubstr("no NVIDIA driver"));
  const auto asked = OpenBackend("auto", "portable", 0, Fake("ready"));
  ASSERT_TRUE(asked.ok()) << asked.status();
  EXPECT_EQ(asked->kernels->Name(), "cpu-portable");
  EXPECT_THAT(asked->why_cpu, HasSubstr("--cpu-path portable"));
}

TEST(Backend, KnowsWhichCardsItsCodeRunsOn) {
  const std::string built = "80-real, 90a-real, 100a-real";
  for (const auto& [major, minor] : {std::pair(8, 0), {8, 6}, {8, 9}, {9, 0}, {10, 0}}) {
    EXPECT_TRUE(RunsOn(built, major, minor)) << major << "." << minor;
  }
  for (const auto& [major, minor] : {std::pair(7, 5), {9, 1}, {10, 3}, {12, 0}}) {
    EXPECT_FALSE(RunsOn(built, major, minor)) << major << "." << minor;
  }
  EXPECT_FALSE(RunsOn("86-real", 8, 0));
  EXPECT_FALSE(RunsOn("", 9, 0));
}

}  // namespace
}  // namespace choir
