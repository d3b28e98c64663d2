// Post-processors of tokenizer.json: token ids put before and behind the ids of a text.
// Supported: Sequence, ByteLevel (nothing to do for ids), TemplateProcessing, RobertaProcessing,
// BertProcessing.
#pragma once

#include <cstdint>
#include <vector>

#include "router/text/json_fields.h"

namespace choir::text {

struct PostProcessor {
  std::vector<int32_t> before;
  std::vector<int32_t> behind;
  bool adds_tokens = false;  // one of the kinds that exist to add tokens

  // An absent or null field: nothing is added. Ids must be below `id_end`.
  static StatusOr<PostProcessor> Read(const JsonField& field, int32_t id_end);
};

}  // namespace choir::text
