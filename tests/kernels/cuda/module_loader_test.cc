#include "kernels/cuda/module_loader.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "tests/support/temp_dir.h"

namespace choir {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

std::string Fake(const char* name) {
  return std::string(CHOIR_FAKE_MODULES) + "/fake_" + name + ".so";
}

void ExpectRefused(const Status& status, absl::StatusCode code, const char* part) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(MessageOf(status), HasSubstr(part));
}

TEST(CudaModule, AModuleThatIsNotThereIsNotFoundAndSaysHowToGetOne) {
  ExpectRefused(OpenCudaModule("/nonexistent/choir_cuda.so").status(), absl::StatusCode::kNotFound,
                "CUDA toolkit");
  ExpectRefused(OpenCudaModule("/nonexistent/choir_cuda.so").status(), absl::StatusCode::kNotFound,
                "missing beside the program: /nonexistent/choir_cuda.so; copy it there");
  ExpectRefused(OpenCudaModule("").status(), absl::StatusCode::kNotFound, "no CUDA module");
}

TEST(CudaModule, AFileThatIsNoLibraryIsRefused) {
  const TempDir dir;
  const std::string path = dir.path() + "/choir_cuda.so";
  std::ofstream(path) << "not a library";
  ExpectRefused(OpenCudaModule(path).status(), absl::StatusCode::kFailedPrecondition,
                "cannot be opened");
}

TEST(CudaModule, ALibraryOfSomethingElseIsRefused) {
  ExpectRefused(OpenCudaModule(Fake("other_library")).status(),
                absl::StatusCode::kFailedPrecondition, "choir_cuda_create");
}

TEST(CudaModule, AModuleOfAnotherVersionIsRefused) {
  ExpectRefused(OpenCudaModule(Fake("other_version")).status(),
                absl::StatusCode::kFailedPrecondition, "another version");
}

TEST(CudaModule, WhatTheMachineLacksIsSaidWithItsRemedy) {
  const std::pair<const char*, const char*> cases[] = {{"no_driver", "no NVIDIA driver"},
                                                       {"old_driver", "too old"},
                                                       {"no_device", "CUDA_VISIBLE_DEVICES"},
                                                       {"failed", "Xid"}};
  for (const auto& [name, words] : cases) {
    EXPECT_TRUE(OpenCudaModule(Fake(name)).ok()) << name;
    const Status status = OpenUsableCudaModule(Fake(name)).status();
    ExpectRefused(status, absl::StatusCode::kUnavailable, words);
    EXPECT_THAT(MessageOf(status), HasSubstr("a fake one"));
  }
}

TEST(CudaModule, AModuleWithAGpuIsUsable) { EXPECT_TRUE(OpenUsableCudaModule(Fake("ready")).ok()); }

// The module of this build: complete, and on a machine without a GPU it says what is missing.
TEST(CudaModule, TheRealOneHasEveryFunctionAndAnswersOnAnyMachine) {
  if (!std::filesystem::exists(CHOIR_REAL_MODULE)) GTEST_SKIP() << "built without nvcc";
  const auto module = OpenCudaModule(CHOIR_REAL_MODULE);
  ASSERT_TRUE(module.ok()) << module.status();
  // A table is a row of pointers behind its name: none may be null.
  const auto expect_full = [](const void* begin, size_t bytes) {
    const auto* pointers = static_cast<const void* const*>(begin);
    for (size_t i = 0; i < bytes / sizeof(void*); ++i) EXPECT_NE(pointers[i], nullptr) << i;
  };
  expect_full(&(*module)->simple, sizeof(cuda::KernelTable));
  expect_full(&(*module)->tensor, sizeof(cuda::KernelTable));
  expect_full(&(*module)->device, sizeof(cuda::DeviceTable));
  expect_full(&(*module)->nccl, sizeof(cuda::NcclTable));
  const Status usable = OpenUsableCudaModule(CHOIR_REAL_MODULE).status();
  if (usable.ok()) return;
  EXPECT_EQ(usable.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(MessageOf(usable), AnyOf(HasSubstr("driver"), HasSubstr("GPU")));
}

TEST(CudaModule, IsLookedForBesideTheProgram) {
  EXPECT_THAT(DefaultCudaModule(), testing::EndsWith("/bin/choir_cuda.so"));
}

}  // namespace
}  // namespace choir
