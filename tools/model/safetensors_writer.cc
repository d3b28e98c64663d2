#include "tools/model/safetensors_writer.h"

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/base/check.h"

namespace choir {
namespace {

const char* FileName(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return "BF16";
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kF8E4M3:
      return "F8_E4M3";
    case DType::kU8:
      return "U8";
    default:
      CHOIR_CHECK(false);
  }
}

std::string Header(const std::vector<TensorSpec>& tensors) {
  std::string text = R"({"__metadata__":{"format":"pt"})";
  uint64_t offset = 0;
  for (const TensorSpec& t : tensors) {
    const uint64_t end = offset + t.num_bytes();
    text += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        nlohmann::json(t.name).dump(), FileName(t.dtype), fmt::join(t.shape, ","),
                        offset, end);
    offset = end;
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');  // data starts aligned
  return text;
}

}  // namespace

int64_t TensorSpec::num_elements() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

uint64_t TensorSpec::num_bytes() const {
  return static_cast<uint64_t>(num_elements()) * SizeOf(dtype);
}

SafetensorsWriter::SafetensorsWriter(std::string path, std::FILE* file)
    : path_(std::move(path)), file_(file) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (file_ != nullptr) std::fclose(file_);
}

StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    std::string path, const std::vector<TensorSpec>& tensors) {
  std::FILE* file = std::fopen(path.c_str(), "wbx");
  if (file == nullptr)
    return FailedPrecondition("cannot create {}: {}", path, std::strerror(errno));
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(std::move(path), file));
  const std::string header = Header(tensors);
  const uint64_t size = header.size();
  CHOIR_RETURN_IF_ERROR(writer->Put(std::as_bytes(std::span(&size, 1))));
  CHOIR_RETURN_IF_ERROR(writer->Put(std::as_bytes(std::span(header.data(), header.size()))));
  for (const TensorSpec& t : tensors) writer->remaining_ += t.num_bytes();
  return writer;
}

Status SafetensorsWriter::Put(std::span<const std::byte> bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) {
    return ResourceExhausted("cannot write {}: {}", path_, std::strerror(errno));
  }
  hash_.Update(bytes);
  file_bytes_ += bytes.size();
  return absl::OkStatus();
}

Status SafetensorsWriter::Write(std::span<const std::byte> bytes) {
  CHOIR_CHECK(bytes.size() <= remaining_);
  remaining_ -= bytes.size();
  return Put(bytes);
}

StatusOr<std::string> SafetensorsWriter::Finish() {
  if (remaining_ != 0) return InvalidArgument("{}: {} bytes were not written", path_, remaining_);
  std::FILE* file = std::exchange(file_, nullptr);
  if (std::fclose(file) != 0) {
    return ResourceExhausted("cannot write {}: {}", path_, std::strerror(errno));
  }
  return ToHex(hash_.Finish());
}

}  // namespace choir
