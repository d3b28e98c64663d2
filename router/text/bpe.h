// Byte-pair encoding: one word to token ids, as the `tokenizers` library's BPE model. Immutable
// after Make, any thread; what a word needs while it is encoded is in a BpeScratch, one for each
// thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/status.h"

namespace choir::text {

inline constexpr int32_t kTokenIdMax = (1 << 22) - 1;

struct BpeConfig {
  std::vector<std::pair<std::string, int32_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
  std::optional<std::string> unk_token;
  std::string continuing_subword_prefix;
  std::string end_of_word_suffix;
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;
  // Words are raw bytes, and stand for the same in the byte-level alphabet. Refused together with
  // byte_fallback, a prefix or a suffix.
  bool raw_bytes = false;
};

// A bounded memory of encoded words and room for the merging of one. One thread.
class BpeScratch {
 public:
  BpeScratch();

 private:
  friend class Bpe;
  // One cache line; a word that hashes to a taken one takes its place.
  struct alignas(64) CachedWord {
    static constexpr size_t kBytesMax = 32;
    static constexpr size_t kIdsMax = 7;
    int32_t ids[kIdsMax];
    char bytes[kBytesMax];
    uint8_t size = 0;  // 0: free
    uint8_t num_ids = 0;
  };
  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;
    bool gone;
  };
  struct Candidate {
    uint32_t rank;
    uint32_t position;
    int32_t merged;
  };
  std::vector<CachedWord> cache_;
  std::vector<int32_t> ids_;
  std::vector<uint64_t> pairs_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
};

class Bpe {
 public:
  // InvalidArgument: names the field of tokenizer.json's model and the value.
  static StatusOr<Bpe> Make(BpeConfig config);
  Bpe(Bpe&&) = default;
  Bpe& operator=(Bpe&&) = default;

  // Appends the ids of one word. Characters without a token become unk_token, or vanish without
  // one. n log n in the word's length.
  void EncodeWord(std::string_view word, BpeScratch* scratch, std::vector<int32_t>* out) const;

  std::optional<int32_t> Id(std::string_view token) const;
  std::optional<std::string_view> Token(int32_t id) const;
  int32_t id_end() const { return static_cast<int32_t>(token_of_.size()); }  // highest id + 1
  size_t size() const { return tokens_.size(); }

 private:
  Bpe() = default;

  // (left, right) -> rank << 32 | merged id, open addressing.
  class PairTable {
   public:
    static constexpr uint64_t kNone = ~0ull;
    void Reserve(size_t pairs);
    void Put(int32_t left, int32_t right, uint64_t value);
    uint64_t Find(int32_t left, int32_t right) const;

   private:
    size_t Slot(uint64_t key) const { return (key * 0x9E3779B97F4A7C15ull) >> shift_; }
    struct Entry {
      uint64_t key = kNone;
      uint64_t value = kNone;
    };
    std::vector<Entry> entries_;
    int shift_ = 63;
  };

  Status ReadVocab(const BpeConfig& config);
  Status ReadMerges(const BpeConfig& config);
  void InitialIds(std::string_view word, std::vector<int32_t>* ids) const;
  void InitialIdsOfChars(std::string_view word, std::vector<int32_t>* ids) const;
  bool AppendBytes(std::string_view piece, std::vector<int32_t>* ids) const;
  void Merge(BpeScratch* scratch) const;
  void MergeShort(BpeScratch* scratch) const;
  void MergeLong(BpeScratch* scratch) const;

  std::vector<std::string> tokens_;
  std::vector<int32_t> token_of_;  // id -> index of tokens_, -1: a gap
  std::unordered_map<std::string_view, int32_t> ids_;
  std::unordered_map<std::string, int32_t> ids_of_bytes_;  // raw_bytes and ignore_merges only
  PairTable pairs_;
  std::array<int32_t, 256> id_of_byte_;      // raw_bytes: of one byte; else of one ASCII character
  std::array<int32_t, 256> id_of_fallback_;  // of <0x00>..<0xFF>
  int32_t unk_id_ = -1;
  std::string prefix_;
  std::string suffix_;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  bool raw_bytes_ = false;
};

}  // namespace choir::text
