// `choir chat`: talk to a running cluster. Streams; Ctrl-C cancels the answer, not the program.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "common/config/options.h"
#include "tools/choir/commands.h"
#include "tools/choir/rest_client.h"
#include "tools/choir/run_file.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

volatile sig_atomic_t g_cancel = 0;

void OnInterrupt(int) { g_cancel = 1; }

struct Sampling {
  int64_t max_tokens = 512;
  double temperature = -1;  // below 0: the server's default
};

std::string TextOf(const Json& delta, const char* key) {
  return delta.contains(key) && delta[key].is_string() ? delta[key].get<std::string>() : "";
}

// Prints the answer as it comes; returns what was said, or an error's message.
StatusOr<std::string> Ask(const RestClient& client, const std::string& model, const Json& messages,
                          const Sampling& sampling) {
  Json body = {{"model", model},
               {"messages", messages},
               {"stream", true},
               {"max_tokens", sampling.max_tokens}};
  if (sampling.temperature >= 0) body["temperature"] = sampling.temperature;
  const bool colours = isatty(1) != 0;
  std::string said;
  bool in_reasoning = false;
  g_cancel = 0;
  const Status status = client.Stream("/v1/chat/completions", body.dump(), [&](const Json& event) {
    for (const Json& choice : event.value("choices", Json::array())) {
      const Json delta = choice.value("delta", Json::object());
      const std::string reasoning = TextOf(delta, "reasoning_content");
      const std::string content = TextOf(delta, "content");
      if (!reasoning.empty() && !in_reasoning)
        std::fputs(colours ? "\033[2m" : "[thinking] ", stdout);
      if (!content.empty() && in_reasoning)
        std::fputs(colours ? "\033[0m\n" : "\n[answer] ", stdout);
      if (!reasoning.empty() || !content.empty()) in_reasoning = !reasoning.empty();
      std::fputs((reasoning + content).c_str(), stdout);
      said += content;
    }
    std::fflush(stdout);
    return g_cancel == 0;
  });
  if (in_reasoning && colours) std::fputs("\033[0m", stdout);
  std::fputs("\n", stdout);
  if (!status.ok() && g_cancel == 0) return status;
  return said;
}

}  // namespace

int RunChat(int argc, const char* const* argv) {
  std::string url, model, state, once;
  Sampling sampling;
  OptionSet options("choir chat", "Talks to a running cluster.", "");
  options.Add(&url,
              {.flag = "--url", .help = "of the REST API [CHOIR_URL, else the running choir up]"});
  options.Add(&model, {.flag = "--model", .help = "model name [the first one served]"});
  options.Add(&state, {.flag = "--state", .help = "state directory of choir up"});
  options.Add(&once, {.flag = "--message", .help = "ask this one thing and exit"});
  options.Add(&sampling.max_tokens, {.flag = "--max-tokens", .help = "longest answer"}, 1, 1 << 20);
  options.Add(&sampling.temperature,
              {.flag = "--temperature", .help = "0 is greedy; below 0: the server's default"}, -1,
              2);
  if (const auto code = options.Parse(argc, argv)) return *code;
  const auto address = FindCluster(url, state);
  if (!address.ok()) {
    std::fprintf(stderr, "choir chat: %s\n", MessageOf(address.status()).c_str());
    return 1;
  }
  const RestClient client(address->url, address->api_key);
  if (model.empty()) {
    const auto models = client.Get("/v1/models");
    if (!models.ok() || models->value("data", Json::array()).empty()) {
      std::fprintf(stderr, "choir chat: %s\n",
                   models.ok() ? "no model is served" : MessageOf(models.status()).c_str());
      return 1;
    }
    model = (*models)["data"][0]["id"].get<std::string>();
  }
  struct sigaction action {};
  action.sa_handler = OnInterrupt;
  sigaction(SIGINT, &action, nullptr);
  Json messages = Json::array();
  if (once.empty())
    std::fprintf(stderr, "%s at %s; Ctrl-C cancels an answer, Ctrl-D ends\n", model.c_str(),
                 address->url.c_str());
  std::string line = once;
  while (!once.empty() || (std::fputs("> ", stderr), std::getline(std::cin, line))) {
    if (line.empty()) continue;
    messages.push_back({{"role", "user"}, {"content", line}});
    const auto said = Ask(client, model, messages, sampling);
    if (!said.ok()) {
      std::fprintf(stderr, "choir chat: %s\n", MessageOf(said.status()).c_str());
      messages.erase(messages.size() - 1);
    } else {
      messages.push_back({{"role", "assistant"}, {"content", *said}});
    }
    if (!once.empty()) return said.ok() ? 0 : 1;
  }
  return 0;
}

}  // namespace choir
