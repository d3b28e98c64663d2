#include <utility>

#include "router/text/hf_tokenizer.h"
#include "router/text/unicode.h"

namespace choir {

struct StreamingDetokenizer::Impl {
  const Tokenizer* tokenizer;
  const text::HfTokenizer*
      hf;  // null: another implementation, whose tokens are joined by their bytes
  bool skip_special;
  text::DecodeStream stream;
  std::string held;  // without hf: bytes of an unfinished character
};

StreamingDetokenizer::StreamingDetokenizer(const Tokenizer* tokenizer, bool skip_special)
    : impl_(std::make_unique<Impl>()) {
  impl_->tokenizer = tokenizer;
  impl_->hf = dynamic_cast<const text::HfTokenizer*>(tokenizer);
  impl_->skip_special = skip_special;
  if (impl_->hf != nullptr) impl_->stream = impl_->hf->StartDecode();
}

StreamingDetokenizer::~StreamingDetokenizer() = default;

std::string StreamingDetokenizer::Push(int32_t id) {
  if (impl_->skip_special && impl_->tokenizer->IsSpecial(id)) return "";
  if (impl_->hf != nullptr) {
    const auto token = impl_->hf->TokenText(id);
    return token ? impl_->stream.Push(*token) : "";
  }
  std::string& held = impl_->held;
  held += impl_->tokenizer->TokenBytes(id);
  const size_t sure = held.size() - unicode::IncompleteTail(held);
  std::string text = unicode::Sanitize(std::string_view(held).substr(0, sure));
  held.erase(0, sure);
  return text;
}

std::string StreamingDetokenizer::Flush() {
  if (impl_->hf == nullptr) return unicode::Sanitize(std::exchange(impl_->held, ""));
  return std::exchange(impl_->stream, impl_->hf->StartDecode()).Finish();
}

}  // namespace choir
