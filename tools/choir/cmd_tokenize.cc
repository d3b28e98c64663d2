// `choir tokenize` and `choir detokenize`: JSON lines in, JSON lines out.
#include <cstdint>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/config/options.h"
#include "router/text/tokenizer.h"
#include "tools/choir/commands.h"

namespace choir {
namespace {

using Json = nlohmann::json;
using Convert = std::function<StatusOr<Json>(const Tokenizer&, const Json&)>;

StatusOr<Json> ParseLine(const std::string& line) {
  try {
    return Json::parse(line);
  } catch (const Json::exception& e) {
    return InvalidArgument("not valid JSON: {}", e.what());
  }
}

// Every line of stdin through `convert`. The first bad line ends it: exit code 1.
int ConvertLines(const char* program, const std::string& model_dir, const Convert& convert) {
  const auto tokenizer = Tokenizer::Load(model_dir);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s: --model %s: %s\n", program, model_dir.c_str(),
                 MessageOf(tokenizer.status()).c_str());
    return 1;
  }
  std::ios::sync_with_stdio(false);
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    auto out = ParseLine(line);
    if (out.ok()) out = convert(**tokenizer, *out);
    if (!out.ok()) {
      std::cout.flush();
      std::fprintf(stderr, "%s: line %lld: %s\n", program, static_cast<long long>(number),
                   MessageOf(out.status()).c_str());
      return 1;
    }
    std::cout << out->dump() << '\n';
  }
  std::cout.flush();
  return std::cout ? 0 : 1;
}

// The options both have. False: only JSON lines are spoken, and --json says so.
struct LineOptions {
  std::string model_dir;
  bool json = false;

  void AddTo(OptionSet* options) {
    options->Add(
        &model_dir,
        {.flag = "--model", .help = "model directory with tokenizer.json", .required = true});
    options->Add(&json, {.flag = "--json", .help = "JSON lines (the only form; required)"});
    options->AddCheck([this]() -> Status {
      if (json) return {};
      return InvalidArgument("--json is missing: input and output are JSON lines");
    });
  }
};

StatusOr<Json> EncodeLine(const Tokenizer& tokenizer, const Json& line, bool add_special) {
  if (!line.is_string()) return InvalidArgument("must be one JSON string");
  CHOIR_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                         tokenizer.Encode(line.get_ref<const std::string&>(), add_special));
  return Json(ids);
}

StatusOr<Json> DecodeLine(const Tokenizer& tokenizer, const Json& line, bool skip_special) {
  if (!line.is_array()) return InvalidArgument("must be one JSON list of token ids");
  std::vector<int32_t> ids;
  for (const Json& id : line) {
    const bool fits = id.is_number_unsigned() && id.get<uint64_t>() <= INT32_MAX;
    if (!fits) {
      return InvalidArgument("element {} is not a token id: {}", ids.size(),
                             id.dump().substr(0, 40));
    }
    ids.push_back(id.get<int32_t>());
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string text, tokenizer.Decode(ids, skip_special));
  return Json(text);
}

}  // namespace

int RunTokenize(int argc, const char* const* argv) {
  LineOptions line_options;
  bool no_special = false;
  OptionSet options(
      "choir tokenize",
      "Text to token ids: one JSON string a line in, one JSON list of ids a line out.", "");
  line_options.AddTo(&options);
  options.Add(&no_special,
              {.flag = "--no-special", .help = "do not add the tokens that begin or end a text"});
  if (const auto exit_code = options.Parse(argc, argv)) return *exit_code;
  return ConvertLines("choir tokenize", line_options.model_dir,
                      [&](const Tokenizer& tokenizer, const Json& line) {
                        return EncodeLine(tokenizer, line, !no_special);
                      });
}

int RunDetokenize(int argc, const char* const* argv) {
  LineOptions line_options;
  bool skip_special = false;
  OptionSet options(
      "choir detokenize",
      "Token ids to text: one JSON list of ids a line in, one JSON string a line out.", "");
  line_options.AddTo(&options);
  options.Add(&skip_special,
              {.flag = "--skip-special", .help = "leave out the text of special tokens"});
  if (const auto exit_code = options.Parse(argc, argv)) return *exit_code;
  return ConvertLines("choir detokenize", line_options.model_dir,
                      [&](const Tokenizer& tokenizer, const Json& line) {
                        return DecodeLine(tokenizer, line, skip_special);
                      });
}

}  // namespace choir
