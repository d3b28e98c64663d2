#include "worker/model/files/direct_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <random>
#include <vector>

#include "tests/support/temp_dir.h"

namespace choir {
namespace {

constexpr size_t kFileBytes = (size_t{3} << 20) + 777;
constexpr size_t kPage = DirectFile::kAlign;

class DirectFileTest : public testing::Test {
 protected:
  DirectFileTest() : bytes_(kFileBytes) {
    std::mt19937_64 random(1);
    for (std::byte& byte : bytes_) byte = static_cast<std::byte>(random());
    const std::string path = dir_.path() + "/weights";
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes_.data()), kFileBytes);
    file_ = MappedFile::Open(path).value();
    void* room = nullptr;
    EXPECT_EQ(posix_memalign(&room, kPage, kFileBytes + 2 * kPage), 0);
    room_.reset(static_cast<std::byte*>(room));
    Chill();
  }
  // Takes the file out of the page cache.
  void Chill() const {
    ASSERT_EQ(fsync(file_->fd()), 0);
    ASSERT_EQ(posix_fadvise(file_->fd(), 0, 0, POSIX_FADV_DONTNEED), 0);
  }
  size_t PagesInCache() const {
    std::vector<unsigned char> there((kFileBytes + kPage - 1) / kPage);
    auto* map = const_cast<std::byte*>(file_->bytes().data());
    EXPECT_EQ(mincore(map, kFileBytes, there.data()), 0);
    size_t pages = 0;
    for (const unsigned char page : there) pages += page & 1;
    return pages;
  }
  // Into memory that lies `shift` bytes off from how the file does.
  void ExpectReads(uint64_t offset, size_t bytes, size_t shift) {
    std::byte* const to = room_.get() + (offset + shift) % kPage;
    std::fill_n(to, bytes, std::byte{0});
    const Status status = DirectFile(file_.get()).Read(offset, {to, bytes});
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(std::equal(to, to + bytes, bytes_.begin() + static_cast<int64_t>(offset)))
        << offset << " " << bytes << " " << shift;
  }

  TempDir dir_;
  std::vector<std::byte> bytes_;
  std::shared_ptr<const MappedFile> file_;
  struct Free {
    void operator()(std::byte* room) const { std::free(room); }
  };
  std::unique_ptr<std::byte, Free> room_;
};

TEST_F(DirectFileTest, ReadsAnyPartFromDiskAndFromMemory) {
  for (const bool warm : {false, true}) {
    for (const uint64_t offset : {uint64_t{0}, uint64_t{8}, uint64_t{kPage}, uint64_t{123'456}}) {
      for (const size_t bytes :
           {size_t{100}, size_t{DirectFile::kDirectMin}, size_t{1'000'000}, kFileBytes - 123'456}) {
        for (const size_t shift : {size_t{0}, size_t{64}}) {
          if (!warm) Chill();
          ExpectReads(offset, bytes, shift);
        }
      }
    }
  }
}

TEST_F(DirectFileTest, ReadsWhatIsHalfInMemory) {
  std::vector<std::byte> part(size_t{1} << 20);
  ASSERT_TRUE(file_->Read(0, part).ok());
  ExpectReads(kPage / 2, kFileBytes - kPage / 2, 0);
}

TEST_F(DirectFileTest, LeavesNothingInThePageCacheButTheEdges) {
  struct statfs fs {};
  ASSERT_EQ(fstatfs(file_->fd(), &fs), 0);
  constexpr auto kTmpfs = 0x01021994;
  if (fs.f_type == kTmpfs) GTEST_SKIP() << "the test's folder is in memory";
  ASSERT_EQ(PagesInCache(), 0U);
  ExpectReads(1000, kFileBytes - 1000, 0);
  EXPECT_LE(PagesInCache(), 4U);
}

TEST_F(DirectFileTest, AFileThatIsTooShortIsAnError) {
  for (const uint64_t offset : {uint64_t{0}, uint64_t{kPage}}) {
    const Status status =
        DirectFile(file_.get()).Read(offset, {room_.get(), kFileBytes - offset + 1});
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  }
}

}  // namespace
}  // namespace choir
