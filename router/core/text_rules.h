// Content rules on the texts of one request. Pure; one thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "router/content/content_filter.h"

namespace choir {

class TextRules {
 public:
  // Hits are added to `hits`, which outlives it.
  TextRules(std::shared_ptr<const ContentRules> rules, std::vector<RuleHits>* hits)
      : rules_(std::move(rules)), hits_(hits) {}

  void Apply(std::string* text);
  // Parts that the model may get as one text, whether with a line's end between them or without
  // anything: a match may reach from one into the next. The replacement stands where it begins.
  void ApplyToParts(const std::vector<std::string*>& parts);

  // The refusing rule that matched first; empty: none did. Texts are of no use then.
  const std::string& refused_by() const { return refused_by_; }

 private:
  const std::shared_ptr<const ContentRules> rules_;
  std::vector<RuleHits>* const hits_;
  std::string refused_by_;
};

}  // namespace choir
