#include "worker/backend.h"

#include <gmock/gmock.h>
#include <stdlib.h>

namespace choir {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string Fake(const std::string& name) { return CHOIR_FAKE_MODULES "/fake_" + name + ".so"; }

TEST(Backend, IsTheCpuUnlessAskedOtherwise) {
  const auto backend = OpenBackend({.cpu_path = "portable"});
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ(backend->kernels->Name(), "cpu-portable");
  EXPECT_EQ(backend->device(), &HostDevice());
  EXPECT_EQ(backend->why_cpu, "");
  EXPECT_FALSE(OpenBackend({.cpu_path = "abacus"}).ok());
}

TEST(Backend, CudaWithoutAGpuIsAnErrorThatSaysWhatIsMissing) {
  const std::pair<std::string, const char*> cases[] = {{"/nowhere", "no CUDA module"},
                                                       {Fake("other_version"), "another version"},
                                                       {Fake("no_driver"), "no NVIDIA driver"},
                                                       {Fake("old_driver"), "too old"},
                                                       {Fake("no_device"), "CUDA_VISIBLE_DEVICES"},
                                                       {Fake("failed"), "Xid"}};
  for (const auto& [module, words] : cases) {
    const Status status = OpenBackend({.device = "cuda", .cuda_module = module}).status();
    EXPECT_FALSE(status.ok()) << module;
    EXPECT_THAT(MessageOf(status), AllOf(HasSubstr("--device cuda: "), HasSubstr(words)));
  }
}

TEST(Backend, CudaComputesOnTheCardOfItsIndex) {
  for (const auto& [index, card] : {std::pair(0, 0), {3, 3}, {11, 3}}) {
    const auto backend =
        OpenBackend({.device = "cuda", .index = index, .cuda_module = CHOIR_EMULATED_MODULE});
    ASSERT_TRUE(backend.ok()) << backend.status();
    EXPECT_EQ(backend->device()->Name(), fmt::format("cuda:{} (an emulated card)", card));
    EXPECT_EQ(backend->kernels->Name(), "cuda-hopper-emulated-sm90");
    EXPECT_EQ(backend->why_cpu, "");
    EXPECT_EQ(backend->why_tensor, "");
  }
  EXPECT_NE(OpenBackend({.device = "auto", .cuda_module = CHOIR_EMULATED_MODULE})->gpu, nullptr);
}

TEST(Backend, TakesTheKernelsThatAreAskedFor) {
  for (const char* kernels : {"simple", "tensor", "hopper"}) {
    const auto backend = OpenBackend(
        {.device = "cuda", .cuda_kernels = kernels, .cuda_module = CHOIR_EMULATED_MODULE});
    ASSERT_TRUE(backend.ok()) << backend.status();
    EXPECT_EQ(backend->kernels->Name(), fmt::format("cuda-{}-emulated-sm90", kernels));
  }
}

TEST(Backend, AutoTakesTensorKernelsWhereTheCardRefusesToStartThoseForHopper) {
  setenv("CHOIR_EMULATED_MAPS_REFUSED", "1", 1);
  const auto backend = OpenBackend({.device = "cuda", .cuda_module = CHOIR_EMULATED_MODULE});
  unsetenv("CHOIR_EMULATED_MAPS_REFUSED");
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ(backend->kernels->Name(), "cuda-tensor-emulated-sm90");
  EXPECT_EQ(backend->why_tensor,
            "grouped_gemm cannot be started: the driver refused a map of a tensor");
  EXPECT_TRUE(backend->gpu->Wait().ok()) << "the refusal is not the device's, it was a trial";
}

TEST(Backend, AutoTakesTheCpuAndSaysWhy) {
  const auto missing = OpenBackend({.device = "auto", .cuda_module = Fake("no_driver")});
  ASSERT_TRUE(missing.ok()) << missing.status();
  EXPECT_EQ(missing->device(), &HostDevice());
  EXPECT_THAT(missing->kernels->Name(), HasSubstr("cpu-"));
  EXPECT_THAT(missing->why_cpu, HasSubstr("no NVIDIA driver"));
  const auto asked =
      OpenBackend({.device = "auto", .cpu_path = "portable", .cuda_module = Fake("ready")});
  ASSERT_TRUE(asked.ok()) << asked.status();
  EXPECT_EQ(asked->kernels->Name(), "cpu-portable");
  EXPECT_THAT(asked->why_cpu, HasSubstr("--cpu-path portable"));
}

TEST(Backend, RefusesACardThatTheBuildIsNotFor) {
  setenv("CHOIR_EMULATED_OLD_CARD", "3", 1);
  const Status old =
      OpenBackend({.device = "cuda", .index = 3, .cuda_module = CHOIR_EMULATED_MODULE}).status();
  const auto other =
      OpenBackend({.device = "cuda", .index = 2, .cuda_module = CHOIR_EMULATED_MODULE});
  unsetenv("CHOIR_EMULATED_OLD_CARD");
  EXPECT_THAT(MessageOf(old), HasSubstr("--device cuda: cuda:3 (an emulated card) has compute "
                                        "capability 7.5, this build is for 90a-real: build with "));
  EXPECT_TRUE(other.ok()) << other.status();
}

}  // namespace
}  // namespace choir
