#include "router/text/bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "router/text/unicode.h"

namespace choir::text {
namespace {

constexpr size_t kCachedWords = 1 << 14;
// Above this length a heap beats looking at all pairs for every merge.
constexpr size_t kShortWord = 64;

uint64_t HashOf(std::string_view word) {
  uint64_t hash = word.size() * 0x9E3779B97F4A7C15ull;
  size_t i = 0;
  for (; i < word.size(); i += 8) {
    uint64_t part = 0;
    std::memcpy(&part, word.data() + i, std::min<size_t>(8, word.size() - i));
    hash = (hash ^ part) * 0xD6E8FEB86659FD93ull;
    hash ^= hash >> 32;
  }
  return hash;
}

}  // namespace

BpeScratch::BpeScratch() : cache_(kCachedWords) {}

void Bpe::PairTable::Reserve(size_t pairs) {
  const size_t size = std::bit_ceil(std::max<size_t>(pairs * 2, 16));
  entries_.assign(size, Entry{});
  shift_ = 64 - std::countr_zero(size);
}

void Bpe::PairTable::Put(int32_t left, int32_t right, uint64_t value) {
  const uint64_t key = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  size_t slot = Slot(key);
  while (entries_[slot].key != kNone && entries_[slot].key != key) {
    slot = (slot + 1) & (entries_.size() - 1);
  }
  entries_[slot] = {key, value};
}

uint64_t Bpe::PairTable::Find(int32_t left, int32_t right) const {
  const uint64_t key = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  size_t slot = Slot(key);
  while (entries_[slot].key != key) {
    if (entries_[slot].key == kNone) return kNone;
    slot = (slot + 1) & (entries_.size() - 1);
  }
  return entries_[slot].value;
}

StatusOr<Bpe> Bpe::Make(BpeConfig config) {
  Bpe bpe;
  bpe.fuse_unk_ = config.fuse_unk;
  bpe.byte_fallback_ = config.byte_fallback;
  bpe.ignore_merges_ = config.ignore_merges;
  bpe.raw_bytes_ = config.raw_bytes;
  bpe.prefix_ = config.continuing_subword_prefix;
  bpe.suffix_ = config.end_of_word_suffix;
  CHOIR_RETURN_IF_ERROR(bpe.ReadVocab(config));
  CHOIR_RETURN_IF_ERROR(bpe.ReadMerges(config));
  return bpe;
}

Status Bpe::ReadVocab(const BpeConfig& config) {
  int32_t id_max = -1;
  for (const auto& [token, id] : config.vocab) {
    if (id < 0 || id > kTokenIdMax) {
      return InvalidArgument("vocab['{}']: id {} is not in 0..{}", token, id, kTokenIdMax);
    }
    id_max = std::max(id_max, id);
  }
  tokens_.reserve(config.vocab.size());
  ids_.reserve(config.vocab.size());
  token_of_.assign(id_max + 1, -1);
  for (const auto& [token, id] : config.vocab) {
    if (token_of_[id] >= 0) {
      return InvalidArgument("vocab: id {} stands for both '{}' and '{}'", id,
                             tokens_[token_of_[id]], token);
    }
    token_of_[id] = static_cast<int32_t>(tokens_.size());
    tokens_.push_back(token);
    ids_.emplace(tokens_.back(), id);
  }
  for (int b = 0; b < 256; ++b) {
    std::string one;
    if (raw_bytes_) {
      unicode::Append(unicode::CharOfByte(static_cast<uint8_t>(b)), &one);
    } else if (b < 0x80) {
      one.push_back(static_cast<char>(b));
    }
    id_of_byte_[b] = one.empty() ? -1 : Id(one).value_or(-1);
    id_of_fallback_[b] = Id(fmt::format("<0x{:02X}>", b)).value_or(-1);
  }
  if (raw_bytes_ && ignore_merges_) {
    for (const std::string& token : tokens_) {
      std::string bytes;
      if (unicode::AppendCharBytes(token, &bytes)) ids_of_bytes_.emplace(bytes, ids_[token]);
    }
  }
  if (config.unk_token) {
    const auto id = Id(*config.unk_token);
    if (!id) return InvalidArgument("unk_token: '{}' is not in vocab", *config.unk_token);
    unk_id_ = *id;
  }
  return {};
}

Status Bpe::ReadMerges(const BpeConfig& config) {
  pairs_.Reserve(config.merges.size());
  for (size_t rank = 0; rank < config.merges.size(); ++rank) {
    const auto& [left, right] = config.merges[rank];
    if (right.size() < prefix_.size()) {
      return InvalidArgument("merges[{}]: '{}' is shorter than continuing_subword_prefix", rank,
                             right);
    }
    const std::string merged = left + right.substr(prefix_.size());
    for (const std::string* token : {&left, &right, &merged}) {
      if (!Id(*token)) {
        return InvalidArgument("merges[{}] ('{}' + '{}'): '{}' is not in vocab", rank, left, right,
                               *token);
      }
    }
    pairs_.Put(*Id(left), *Id(right), static_cast<uint64_t>(rank) << 32 | *Id(merged));
  }
  return {};
}

std::optional<int32_t> Bpe::Id(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

std::optional<std::string_view> Bpe::Token(int32_t id) const {
  if (id < 0 || id >= id_end() || token_of_[id] < 0) return std::nullopt;
  return tokens_[token_of_[id]];
}

bool Bpe::AppendBytes(std::string_view piece, std::vector<int32_t>* ids) const {
  for (const char b : piece) {
    if (id_of_fallback_[static_cast<uint8_t>(b)] < 0) return false;
  }
  for (const char b : piece) ids->push_back(id_of_fallback_[static_cast<uint8_t>(b)]);
  return true;
}

void Bpe::InitialIds(std::string_view word, std::vector<int32_t>* ids) const {
  ids->clear();
  if (!raw_bytes_) return InitialIdsOfChars(word, ids);
  bool in_unk = false;
  for (const char b : word) {
    int32_t id = id_of_byte_[static_cast<uint8_t>(b)];
    if (id < 0) {
      id = in_unk && fuse_unk_ ? -1 : unk_id_;
      in_unk = true;
    } else {
      in_unk = false;
    }
    if (id >= 0) ids->push_back(id);
  }
}

void Bpe::InitialIdsOfChars(std::string_view word, std::vector<int32_t>* ids) const {
  std::string decorated;
  bool unk_waits = false;  // the library adds an unk only before the next known character or the
                           // end, so behind byte-fallback tokens that follow it
  size_t pos = 0;
  while (pos < word.size()) {
    const size_t from = pos;
    unicode::Next(word, &pos);
    std::string_view piece = word.substr(from, pos - from);
    const bool decorate =
        (from > 0 && !prefix_.empty()) || (pos == word.size() && !suffix_.empty());
    if (decorate) {
      decorated = from > 0 ? prefix_ : "";
      decorated += piece;
      if (pos == word.size()) decorated += suffix_;
      piece = decorated;
    }
    const int32_t id =
        piece.size() == 1 ? id_of_byte_[static_cast<uint8_t>(piece[0])] : Id(piece).value_or(-1);
    if (id >= 0) {
      if (unk_waits) ids->push_back(unk_id_);
      unk_waits = false;
      ids->push_back(id);
      continue;
    }
    if (byte_fallback_ && AppendBytes(piece, ids)) continue;
    if (unk_id_ < 0) continue;
    if (unk_waits && !fuse_unk_) ids->push_back(unk_id_);
    unk_waits = true;
  }
  if (unk_waits) ids->push_back(unk_id_);
}

void Bpe::MergeShort(BpeScratch* scratch) const {
  std::vector<int32_t>& ids = scratch->ids_;
  std::vector<uint64_t>& pairs = scratch->pairs_;  // of ids[i] and ids[i + 1]
  pairs.resize(ids.size() - 1);
  for (size_t i = 0; i + 1 < ids.size(); ++i) pairs[i] = pairs_.Find(ids[i], ids[i + 1]);
  while (!pairs.empty()) {
    // Lowest rank, then leftmost: the rank is in the high half, and equal ranks are equal pairs.
    const size_t best = std::min_element(pairs.begin(), pairs.end()) - pairs.begin();
    if (pairs[best] == PairTable::kNone) return;
    ids[best] = static_cast<int32_t>(pairs[best] & 0xFFFFFFFFu);
    ids.erase(ids.begin() + best + 1);
    pairs.erase(pairs.begin() + best);
    if (best > 0) pairs[best - 1] = pairs_.Find(ids[best - 1], ids[best]);
    if (best < pairs.size()) pairs[best] = pairs_.Find(ids[best], ids[best + 1]);
  }
}

void Bpe::MergeLong(BpeScratch* scratch) const {
  using Candidate = BpeScratch::Candidate;
  auto& symbols = scratch->symbols_;
  auto& heap = scratch->heap_;
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto offer = [&](int32_t left) {
    const uint64_t pair = pairs_.Find(symbols[left].id, symbols[symbols[left].next].id);
    if (pair == PairTable::kNone) return false;
    heap.push_back({static_cast<uint32_t>(pair >> 32), static_cast<uint32_t>(left),
                    static_cast<int32_t>(pair & 0xFFFFFFFFu)});
    return true;
  };
  const auto count = static_cast<int32_t>(scratch->ids_.size());
  symbols.clear();
  heap.clear();
  for (int32_t i = 0; i < count; ++i) {
    symbols.push_back({scratch->ids_[i], i - 1, i + 1 < count ? i + 1 : -1, false});
  }
  for (int32_t i = 0; i + 1 < count; ++i) offer(i);
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate top = heap.back();
    heap.pop_back();
    BpeScratch::Symbol& left = symbols[top.position];
    if (left.gone || left.next < 0) continue;
    // The pair may have changed since it was offered.
    BpeScratch::Symbol& right = symbols[left.next];
    const uint64_t pair = pairs_.Find(left.id, right.id);
    if (pair == PairTable::kNone || static_cast<int32_t>(pair & 0xFFFFFFFFu) != top.merged)
      continue;
    left.id = top.merged;
    left.next = right.next;
    right.gone = true;
    if (left.next >= 0) symbols[left.next].previous = static_cast<int32_t>(top.position);
    if (left.previous >= 0 && offer(left.previous)) std::push_heap(heap.begin(), heap.end(), later);
    if (left.next >= 0 && offer(static_cast<int32_t>(top.position))) {
      std::push_heap(heap.begin(), heap.end(), later);
    }
  }
  scratch->ids_.clear();
  for (const auto& symbol : symbols) {
    if (!symbol.gone) scratch->ids_.push_back(symbol.id);
  }
}

void Bpe::Merge(BpeScratch* scratch) const {
  if (scratch->ids_.size() < 2) return;
  if (scratch->ids_.size() <= kShortWord) {
    MergeShort(scratch);
  } else {
    MergeLong(scratch);
  }
}

void Bpe::EncodeWord(std::string_view word, BpeScratch* scratch, std::vector<int32_t>* out) const {
  using CachedWord = BpeScratch::CachedWord;
  if (word.empty()) return;
  CachedWord* cached = nullptr;
  if (word.size() <= CachedWord::kBytesMax) {
    cached = &scratch->cache_[HashOf(word) % kCachedWords];
    if (cached->size == word.size() && std::memcmp(cached->bytes, word.data(), word.size()) == 0) {
      out->insert(out->end(), cached->ids, cached->ids + cached->num_ids);
      return;
    }
  }
  std::vector<int32_t>& ids = scratch->ids_;
  bool known = false;
  if (ignore_merges_) {
    int32_t id = -1;
    if (!raw_bytes_) {
      id = Id(word).value_or(-1);
    } else if (const auto it = ids_of_bytes_.find(std::string(word)); it != ids_of_bytes_.end()) {
      id = it->second;
    }
    known = id >= 0;
    if (known) ids.assign(1, id);
  }
  if (!known) {
    InitialIds(word, &ids);
    Merge(scratch);
  }
  out->insert(out->end(), ids.begin(), ids.end());
  if (cached != nullptr && ids.size() <= CachedWord::kIdsMax) {
    std::memcpy(cached->bytes, word.data(), word.size());
    std::copy(ids.begin(), ids.end(), cached->ids);
    cached->size = static_cast<uint8_t>(word.size());
    cached->num_ids = static_cast<uint8_t>(ids.size());
  }
}

}  // namespace choir::text
