// tokenizer.json: loads or says why not; what loads encodes and decodes any text.
#include <algorithm>

#include "common/base/check.h"
#include "router/text/hf_tokenizer.h"
#include "router/text/unicode.h"
#include "tests/fuzz/json_mutator.h"

// The line behind the JSON is the text.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using choir::text::HfTokenizer;
  auto [json, text] = choir::fuzz::SplitInput(data, size);
  const auto root = nlohmann::json::parse(json, nullptr, false);
  if (root.is_discarded()) return 0;
  const nlohmann::json config = {{"bos_token", "<s>"}, {"eos_token", {{"content", "</s>"}}}};
  const auto tokenizer = HfTokenizer::FromJson(root, config);
  if (!tokenizer.ok()) {
    CHOIR_CHECK(!tokenizer.status().message().empty());
    return 0;
  }
  text.resize(std::min<size_t>(text.size(), 512));
  for (const std::string& t : {text, std::string("Hello, w\xc3\xb6rld  42\n<s>x</s>")}) {
    const auto ids = (*tokenizer)->Encode(t, true);
    if (!ids.ok()) continue;  // the budget of its expressions was spent
    for (const int32_t id : *ids) {
      CHOIR_CHECK(id >= 0 && id < (*tokenizer)->vocab_size());
      (*tokenizer)->TokenBytes(id);
    }
    const auto decoded = (*tokenizer)->Decode(*ids, false);
    CHOIR_CHECK(decoded.ok() && choir::unicode::IsValid(*decoded));
  }
  return 0;
}
