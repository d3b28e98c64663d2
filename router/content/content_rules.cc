#include "router/content/content_rules.h"

#include <hs/hs.h>

#include <algorithm>
#include <climits>
#include <set>

#include "common/base/check.h"
#include "common/base/plain_name.h"

namespace choir {
namespace {

unsigned FlagsOf(const ContentRule& rule) {
  return HS_FLAG_SOM_LEFTMOST | HS_FLAG_UTF8 | (rule.ignore_case ? HS_FLAG_CASELESS : 0u);
}

// What a thread's scans write to; grows to what the largest set of rules needs.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { hs_free_scratch(scratch_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  hs_scratch_t* For(const hs_database_t* database) {
    CHOIR_CHECK(hs_alloc_scratch(database, &scratch_) == HS_SUCCESS);
    return scratch_;
  }

 private:
  hs_scratch_t* scratch_ = nullptr;
};

std::string TakeMessage(hs_compile_error_t* error) {
  const std::string message = error->message;
  hs_free_compile_error(error);
  return message;
}

// The longest match of the rule, in bytes.
StatusOr<size_t> CheckRule(const ContentRule& rule) {
  hs_expr_info_t* info = nullptr;
  hs_compile_error_t* error = nullptr;
  if (hs_expression_info(rule.pattern.c_str(), FlagsOf(rule), &info, &error) != HS_SUCCESS) {
    return InvalidArgument("{}: pattern: {}", rule.name, TakeMessage(error));
  }
  const unsigned min = info->min_width, max = info->max_width;
  free(info);
  if (min == 0) {
    return InvalidArgument("{}: pattern: it matches the empty text; make a part of it required",
                           rule.name);
  }
  if (max == UINT_MAX || max > kContentMatchMax) {
    return InvalidArgument(
        "{}: pattern: a match may have {} bytes, at most {} are allowed; bound what repeats, as in "
        "[0-9]{{1,20}}",
        rule.name, max == UINT_MAX ? "any number of" : std::to_string(max), kContentMatchMax);
  }
  return size_t{max};
}

Status CheckNames(const std::vector<ContentRule>& rules) {
  std::set<std::string> names;
  for (const ContentRule& rule : rules) {
    if (!IsPlainName(rule.name, 64)) {
      return InvalidArgument("'{}': name: 1 to 64 of [A-Za-z0-9._-] are needed",
                             rule.name.substr(0, 64));
    }
    if (!names.insert(rule.name).second) {
      return InvalidArgument("{}: name: is given twice; rename one", rule.name);
    }
  }
  if (rules.size() > kContentRulesMax) {
    return InvalidArgument("{} rules are more than {}; join some of them", rules.size(),
                           kContentRulesMax);
  }
  return absl::OkStatus();
}

int Collect(unsigned id, unsigned long long from, unsigned long long to, unsigned /*flags*/,
            void* context) {
  static_cast<std::vector<ContentMatch>*>(context)->push_back(
      {static_cast<size_t>(from), static_cast<size_t>(to), size_t{id}});
  return 0;
}

}  // namespace

StatusOr<std::shared_ptr<const ContentRules>> ContentRules::Compile(
    std::vector<ContentRule> rules) {
  CHOIR_RETURN_IF_ERROR(CheckNames(rules));
  std::shared_ptr<ContentRules> made(new ContentRules(std::move(rules)));
  if (made->rules_.empty()) return made;
  std::vector<const char*> patterns;
  std::vector<unsigned> flags, ids;
  for (const ContentRule& rule : made->rules_) {
    CHOIR_ASSIGN_OR_RETURN(const size_t longest, CheckRule(rule));
    made->longest_ = std::max(made->longest_, longest);
    ids.push_back(static_cast<unsigned>(patterns.size()));
    patterns.push_back(rule.pattern.c_str());
    flags.push_back(FlagsOf(rule));
  }
  hs_compile_error_t* error = nullptr;
  if (hs_compile_multi(patterns.data(), flags.data(), ids.data(),
                       static_cast<unsigned>(patterns.size()), HS_MODE_BLOCK, nullptr,
                       &made->database_, &error) != HS_SUCCESS) {
    const int which = error->expression;
    const std::string name = which < 0 ? "rules" : made->rules_[static_cast<size_t>(which)].name;
    const std::string message = TakeMessage(error);
    const bool large = message.find("too large") != std::string::npos;
    return InvalidArgument(
        "{}: pattern: {}{}", name, message,
        large ? " Lower the bounds of what repeats, or make two rules of it." : "");
  }
  return made;
}

ContentRules::~ContentRules() { hs_free_database(database_); }

std::vector<ContentMatch> ContentRules::Scan(std::string_view text) const {
  static thread_local Scratch scratch;
  std::vector<ContentMatch> matches;
  if (database_ == nullptr || text.empty()) return matches;
  CHOIR_CHECK(text.size() <= UINT_MAX);
  CHOIR_CHECK(hs_scan(database_, text.data(), static_cast<unsigned>(text.size()), 0,
                      scratch.For(database_), Collect, &matches) == HS_SUCCESS);
  return matches;
}

}  // namespace choir
