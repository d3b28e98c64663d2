#include "router/text/hf_tokenizer.h"

#include "router/text/unicode.h"

namespace choir::text {
namespace {

// Workspaces kept for the next Encode; more may be at work at once.
constexpr size_t kIdleMax = 16;

}  // namespace

class HfTokenizer::WordSink : public PreTokenizer::Sink {
 public:
  WordSink(const Bpe& bpe, BpeScratch* scratch, std::vector<int32_t>* ids)
      : bpe_(bpe), scratch_(scratch), ids_(ids) {}

  bool Take(const PreTokenizer::Piece& piece) override {
    bpe_.EncodeWord(piece.text, scratch_, ids_);
    return true;
  }

 private:
  const Bpe& bpe_;
  BpeScratch* scratch_;
  std::vector<int32_t>* ids_;
};

std::unique_ptr<HfTokenizer::Workspace> HfTokenizer::TakeWorkspace() const {
  {
    std::lock_guard lock(mu_);
    if (!idle_.empty()) {
      auto workspace = std::move(idle_.back());
      idle_.pop_back();
      return workspace;
    }
  }
  return std::make_unique<Workspace>();
}

void HfTokenizer::ReturnWorkspace(std::unique_ptr<Workspace> workspace) const {
  std::lock_guard lock(mu_);
  if (idle_.size() < kIdleMax) idle_.push_back(std::move(workspace));
}

StatusOr<std::vector<int32_t>> HfTokenizer::Encode(std::string_view text, bool add_special) const {
  std::string sanitized;
  if (!unicode::IsAscii(text) && !unicode::IsValid(text)) {
    sanitized = unicode::Sanitize(text);
    text = sanitized;
  }
  std::unique_ptr<Workspace> work = TakeWorkspace();
  work->pre.regex.StartText(text.size());
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  if (add_special) ids = before_;
  const bool done = added_.Cut(text, false, [&](const AddedTokens::Part& part) {
    if (part.id < 0)
      return EncodeSection(part.text, part.text.data() == text.data(), work.get(), &ids);
    ids.push_back(part.id);
    return true;
  });
  ReturnWorkspace(std::move(work));
  if (!done) {
    return ResourceExhausted(
        "tokenizer: the text of {} bytes makes a regular expression of tokenizer.json try too "
        "often to match, or its normalizer write too much; shorten it or break up its repetitions",
        text.size());
  }
  if (add_special) ids.insert(ids.end(), behind_.begin(), behind_.end());
  return ids;
}

bool HfTokenizer::EncodeSection(std::string_view section, bool at_start, Workspace* work,
                                std::vector<int32_t>* ids) const {
  std::string normal;
  if (!normalizer_.empty()) {
    normal = section;
    bool dropped_front = false;
    if (!normalizer_.Apply(&normal, &dropped_front, &work->pre.regex)) return false;
    at_start = at_start && !dropped_front;
    section = normal;
  }
  WordSink words(bpe_, &work->bpe, ids);
  return added_.Cut(section, true, [&](const AddedTokens::Part& part) {
    if (part.id >= 0) {
      ids->push_back(part.id);
      return true;
    }
    const bool first = at_start && part.text.data() == section.data();
    return pre_tokenizer_.Run({part.text, first}, &work->pre, &words);
  });
}

std::optional<std::string_view> HfTokenizer::TokenText(int32_t id) const {
  if (const std::string* text = added_.DecodedText(id)) return *text;
  return bpe_.Token(id);
}

StatusOr<std::string> HfTokenizer::Decode(const std::vector<int32_t>& ids,
                                          bool skip_special) const {
  DecodeStream stream = decoder_.Start();
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto token = TokenText(ids[i]);
    if (!token) {
      return InvalidArgument("token id {} at position {} is not in the vocabulary (0..{})", ids[i],
                             i, vocab_size_ - 1);
    }
    if (skip_special && IsSpecial(ids[i])) continue;
    text += stream.Push(*token);
  }
  return text + stream.Finish();
}

std::vector<std::string_view> HfTokenizer::BetweenMarks(std::string_view text) const {
  std::vector<std::string_view> stretches;
  size_t begin = 0;
  const auto end_at = [&](size_t end) {
    if (end > begin) stretches.push_back(text.substr(begin, end - begin));
  };
  added_.Cut(text, false, [&](const AddedTokens::Part& part) {
    if (part.id < 0 || !IsSpecial(part.id)) return true;
    const auto at = static_cast<size_t>(part.text.data() - text.data());
    end_at(at);
    begin = at + part.text.size();
    return true;
  });
  end_at(text.size());
  return stretches;
}

std::string HfTokenizer::TokenBytes(int32_t id) const {
  if (const AddedToken* added = added_.Find(id)) return added->content;
  const auto token = bpe_.Token(id);
  return token ? decoder_.TokenBytes(*token) : "";
}

bool HfTokenizer::IsSpecial(int32_t id) const {
  const AddedToken* added = added_.Find(id);
  return added != nullptr && added->special;
}

std::optional<int32_t> HfTokenizer::TokenId(std::string_view content) const {
  const auto id = added_.Id(content);
  return id ? id : bpe_.Id(content);
}

}  // namespace choir::text
