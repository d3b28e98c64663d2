// `choir template`: chat messages through a model's chat template, a JSON line in, a JSON line out.
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "common/base/clock.h"
#include "common/base/print_error.h"
#include "common/config/options.h"
#include "router/text/chat_template.h"
#include "tools/choir/commands.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

StatusOr<std::string> RenderLine(const ChatTemplate& chat_template, const std::string& line) {
  const Json request = Json::parse(line, nullptr, false);
  if (request.is_discarded()) return InvalidArgument("the line is not JSON");
  return chat_template.Render(request, Clock::Real(), TemplateLimits());
}

}  // namespace

int RunTemplate(int argc, const char* const* argv) {
  std::string model;
  bool json = false;
  OptionSet options(
      "choir template",
      "Renders chat messages: each line of stdin holds {\"messages\":[...], \"tools\":[...], "
      "\"add_generation_prompt\":bool, \"kwargs\":{...}}, each line of stdout {\"text\":...} "
      "or {\"error\":...}.",
      "");
  options.Add(&model, {.key = "", .flag = "--model", .help = "model directory", .required = true});
  options.Add(&json, {.key = "", .flag = "--json", .help = "print JSON instead of the bare text"});
  if (const auto exit_code = options.Parse(argc, argv)) return *exit_code;

  const auto chat_template = ChatTemplate::Load(model);
  if (!chat_template.ok()) {
    PrintError("choir template", chat_template.status());
    return 1;
  }
  bool failed = false;
  for (std::string line; std::getline(std::cin, line);) {
    const auto text = RenderLine(**chat_template, line);
    failed |= !text.ok();
    Json answer = Json::object();
    text.ok() ? answer["text"] = *text : answer["error"] = MessageOf(text.status());
    if (json) {
      std::printf("%s\n", answer.dump().c_str());
    } else if (text.ok()) {
      std::printf("%s\n", text->c_str());
    } else {
      PrintError("choir template", text.status());
    }
    std::fflush(stdout);
  }
  return failed && !json ? 1 : 0;
}

}  // namespace choir
