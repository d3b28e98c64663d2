#include "worker/model/weights/device_loader.h"

#include <gmock/gmock.h>

#include <cstring>
#include <fstream>
#include <limits>
#include <random>

#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/temp_dir.h"
#include "worker/device/table_device.h"

namespace choir {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kElements = 10'000;

class DeviceLoaderTest : public testing::Test {
 protected:
  DeviceLoaderTest() {
    for (int64_t i = 0; i < kElements; ++i) values_.push_back(static_cast<float>(i) * 0.5f);
    WriteFile();
    EXPECT_TRUE(card_->Reserve(size_t{1} << 20).ok());
    memory_ = card_->Allocate(size_t{1} << 20).value();
  }
  void WriteFile() {
    const std::string path = dir_.path() + "/weights";
    {
      std::ofstream out(path, std::ios::binary | std::ios::trunc);
      out.write(reinterpret_cast<const char*>(values_.data()),
                static_cast<std::streamsize>(values_.size() * 4));
    }
    file_ = MappedFile::Open(path).value();
    tensor_.info.name = "layers.0.w";
    tensor_.info.dtype = DType::kF32;
    tensor_.info.bytes = values_.size() * 4;
    tensor_.file = file_.get();
  }
  std::vector<float> OnCard(size_t begin, size_t count) {
    const auto host = card_->AllocateHost(count * 4).value();
    card_->Copy(host.data(), memory_.data() + begin, count * 4);
    EXPECT_TRUE(card_->Wait().ok());
    std::vector<float> values(count);
    std::memcpy(values.data(), host.data(), count * 4);
    return values;
  }

  TempDir dir_;
  std::vector<float> values_;
  std::shared_ptr<const MappedFile> file_;
  StoredTensor tensor_;
  std::unique_ptr<Device> card_ = MakeTableDevice(emulation::EmulatedDevices(), 0).value();
  DeviceBuffer memory_;
};

TEST_F(DeviceLoaderTest, BringsPartsOfAnySizeToTheirPlaces) {
  std::mt19937 random(1);
  for (const size_t part_bytes : {size_t{8}, size_t{24}, size_t{4096}, size_t{1} << 20}) {
    for (const int threads : {1, 3}) {
      std::vector<LoadPart> parts;
      std::vector<size_t> begins;
      size_t at = 0;
      for (int i = 0; i < 20; ++i) {
        const uint64_t count = part_bytes == 8 ? random() % 9 + 1 : random() % 900 + 1;
        const uint64_t from = random() % (kElements - count);
        LoadPart part{.bytes = 4 * count, .to = memory_.data() + at};
        if (random() % 3 == 0) {
          part.memory = reinterpret_cast<const std::byte*>(values_.data() + from);
        } else {
          part.tensor = &tensor_;
          part.begin = 4 * from;
        }
        begins.push_back(from);
        parts.push_back(part);
        at += 4 * count;
      }
      uint64_t advanced = 0;
      DeviceLoader loader(card_.get(), threads, part_bytes);
      const Status status = loader.Run(parts, [&](uint64_t bytes) { advanced += bytes; });
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_EQ(advanced, at);
      for (size_t i = 0; i < parts.size(); ++i) {
        const auto first = values_.begin() + static_cast<int64_t>(begins[i]);
        EXPECT_EQ(OnCard(static_cast<size_t>(parts[i].to - memory_.data()), parts[i].bytes / 4),
                  std::vector<float>(first, first + static_cast<int64_t>(parts[i].bytes / 4)));
      }
    }
  }
}

TEST_F(DeviceLoaderTest, BringsLargePartsThatBeginAnywhere) {
  constexpr size_t kLarge = 600'000;
  values_.resize(kLarge);
  for (size_t i = 0; i < kLarge; ++i) values_[i] = static_cast<float>(i) * 0.25f;
  WriteFile();
  const auto card = MakeTableDevice(emulation::EmulatedDevices(), 1).value();
  ASSERT_TRUE(card->Use().ok() && card->Reserve(size_t{8} << 20).ok());
  const DeviceBuffer memory = card->Allocate(4 * kLarge).value();
  for (const uint64_t begin : {0, 4, 40, 4096, 100'000}) {
    const LoadPart part{
        .tensor = &tensor_, .begin = begin, .bytes = 4 * kLarge - begin, .to = memory.data()};
    const Status status = DeviceLoader(card.get(), 2, size_t{1} << 20).Run({part}, [](uint64_t) {});
    ASSERT_TRUE(status.ok()) << status;
    const auto host = card->AllocateHost(part.bytes).value();
    card->Copy(host.data(), memory.data(), part.bytes);
    ASSERT_TRUE(card->Wait().ok());
    EXPECT_EQ(std::memcmp(host.data(), values_.data() + begin / 4, part.bytes), 0) << begin;
  }
}

TEST_F(DeviceLoaderTest, NamesANumberThatIsNone) {
  values_[7777] = std::numeric_limits<float>::quiet_NaN();
  WriteFile();
  const LoadPart all{.tensor = &tensor_, .bytes = kElements * 4, .to = memory_.data()};
  const Status status = DeviceLoader(card_.get(), 2, 4096).Run({all}, [](uint64_t) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MessageOf(status), AllOf(HasSubstr("layers.0.w"), HasSubstr("element 7777 is NaN")));
}

TEST_F(DeviceLoaderTest, AFileThatBecameShorterIsAnError) {
  tensor_.info.bytes += 4;
  const LoadPart all{.tensor = &tensor_, .bytes = kElements * 4 + 4, .to = memory_.data()};
  const Status status = DeviceLoader(card_.get(), 2, 4096).Run({all}, [](uint64_t) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace choir
