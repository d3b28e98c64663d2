// SHA-256 by OpenSSL. Not thread-safe per object; objects are independent.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace choir {

using Sha256Digest = std::array<uint8_t, 32>;

// For tables: of a digest, any part will do.
struct Sha256DigestHash {
  size_t operator()(const Sha256Digest& digest) const {
    size_t hash = 0;
    std::memcpy(&hash, digest.data(), sizeof hash);
    return hash;
  }
};

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void Update(std::span<const std::byte> bytes);
  void Update(std::string_view text);
  Sha256Digest Finish();  // once

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

Sha256Digest Sha256Of(std::string_view text);
std::string ToHex(std::span<const uint8_t> bytes);  // lower case

}  // namespace choir
