// `choir tokenize` and `choir detokenize`: JSON lines in, JSON lines out.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/base/print_error.h"
#include "common/base/status.h"
#include "common/config/options.h"
#include "router/text/json_fields.h"
#include "router/text/tokenizer.h"
#include "tools/choir/commands.h"

namespace choir {
namespace {

using Json = nlohmann::json;
using Convert = std::function<StatusOr<Json>(const Tokenizer&, const Json&)>;

// Lines of stdin, of any length and with any bytes.
class LineReader {
 public:
  ~LineReader() { std::free(buffer_); }

  // Without its end; false: there is none.
  bool Next(std::string* line) {
    const ssize_t size = getline(&buffer_, &capacity_, stdin);
    if (size < 0) return false;
    line->assign(buffer_, static_cast<size_t>(size));
    if (line->ends_with('\n')) line->pop_back();
    return true;
  }

 private:
  char* buffer_ = nullptr;
  size_t capacity_ = 0;
};

// Every line of stdin through `convert`. The first bad line ends it: exit code 1.
int ConvertLines(const char* program, const std::string& model_dir, const Convert& convert) {
  const auto tokenizer = Tokenizer::Load(model_dir);
  if (!tokenizer.ok()) {
    PrintError(program, tokenizer.status());
    return 1;
  }
  LineReader lines;
  std::string line;
  for (int64_t number = 1; lines.Next(&line); ++number) {
    const std::string name = fmt::format("line {}", number);
    const auto in = text::ParseJson(line, name);
    const StatusOr<Json> out = in.ok() ? convert(**tokenizer, *in) : in;
    if (!out.ok()) {
      std::fflush(stdout);
      const Status error = in.ok() ? Annotate(out.status(), name) : in.status();
      PrintError(program, error);
      return 1;
    }
    // Only ASCII, because some readers of lines also break them at U+0085 or U+2028.
    std::printf("%s\n", out->dump(-1, ' ', true).c_str());
  }
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
  std::fprintf(stderr, "%s: stdout cannot be written\n", program);
  return 1;
}

// The options both have. Only JSON lines are spoken, and --json says so.
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
