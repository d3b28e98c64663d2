// A model directory with text files only (no weights), small enough to reason about: every byte is
// a token of its own id, then a few special ones. For tests of everything that reads text.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace choir {

// Ids after the 256 bytes.
inline constexpr int kTinyEos = 256;         // special
inline constexpr int kTinyBos = 257;         // special
inline constexpr int kTinyThinkOpen = 258;   // "<think>", not special
inline constexpr int kTinyThinkClose = 259;  // "</think>", not special
inline constexpr int kTinyVocab = 260;
inline constexpr int kTinyContext = 256;

// Removed with the object.
class TinyModel {
 public:
  TinyModel();
  ~TinyModel();
  TinyModel(const TinyModel&) = delete;
  TinyModel& operator=(const TinyModel&) = delete;

  std::string dir() const { return dir_.string(); }
  void Write(const std::string& file, const std::string& text) const;

 private:
  std::filesystem::path dir_;
};

}  // namespace choir
