// `choir chat`: talk to a running cluster. Streams; Ctrl-C cancels the answer, not the program.
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "common/config/options.h"
#include "tools/choir/chat_answer.h"
#include "tools/choir/commands.h"
#include "tools/choir/line_editor.h"
#include "tools/choir/rest_client.h"
#include "tools/choir/run_file.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kHelp[] =
    "  /new            forget the conversation\n"
    "  /retry          ask the last question again\n"
    "  /system TEXT    begin anew with this system message\n"
    "  /model [NAME]   show or change the model\n"
    "  /tokens N       longest answer\n"
    "  /temperature T  0 is greedy; below 0: the server's default\n"
    "  /quit           end (also Ctrl-D)\n"
    "Arrows edit and recall, Ctrl-R searches, a backslash at the end goes on in the next line,\n"
    "Ctrl-C cancels an answer or drops a line.\n";

struct ChatOptions {
  std::string url, model, state, message, system;
  ChatSampling sampling;
  bool no_history = false;
};

void Note(const std::string& text) {
  const bool colours = isatty(STDERR_FILENO) != 0;
  std::fprintf(stderr, colours ? "\033[2m%s\033[0m\n" : "%s\n", text.c_str());
}

void Error(const std::string& message) {
  std::fprintf(stderr, "choir chat: %s\n", message.c_str());
}

class Conversation {
 public:
  Conversation(const RestClient& client, ChatOptions options)
      : client_(client), options_(std::move(options)) {
    Begin(options_.system);
  }

  // Asks and remembers question and answer; false after an error, which it has shown.
  bool Ask(const std::string& question) {
    messages_.push_back({{"role", "user"}, {"content", question}});
    const auto answer = StreamChatAnswer(client_, options_.model, messages_, options_.sampling);
    if (!answer.ok()) {
      Error(MessageOf(answer.status()));
      messages_.erase(messages_.size() - 1);
      return false;
    }
    if (options_.message.empty() || isatty(STDERR_FILENO) != 0) Note(FiguresOf(*answer));
    messages_.push_back({{"role", "assistant"}, {"content", answer->content}});
    return true;
  }

  // A line that begins with a slash. False: end.
  bool Command(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string name = line.substr(0, space);
    const std::string rest = space == std::string::npos ? "" : line.substr(space + 1);
    if (name == "/quit" || name == "/exit") return false;
    if (name == "/new") {
      Begin(options_.system);
    } else if (name == "/system") {
      Begin(options_.system = rest);
    } else if (name == "/retry") {
      Retry();
    } else if (name == "/model") {
      if (!rest.empty()) options_.model = rest;
      Note(options_.model);
    } else if (name == "/tokens") {
      Set(rest, 1, 1 << 20,
          [&](double v) { options_.sampling.max_tokens = static_cast<int64_t>(v); });
    } else if (name == "/temperature") {
      Set(rest, -1, 2, [&](double v) { options_.sampling.temperature = v; });
    } else {
      if (name != "/help") Error("there is no command " + name);
      std::fputs(kHelp, stderr);
    }
    return true;
  }

 private:
  void Begin(const std::string& system) {
    messages_ = Json::array();
    if (!system.empty()) messages_.push_back({{"role", "system"}, {"content", system}});
  }

  void Retry() {
    if (messages_.size() < 2 || messages_.back().value("role", "") != "assistant") {
      return Error("nothing was asked yet");
    }
    messages_.erase(messages_.size() - 1);
    const std::string question = messages_.back().value("content", "");
    messages_.erase(messages_.size() - 1);
    Ask(question);
  }

  template <typename Setter>
  void Set(const std::string& text, double min, double max, Setter set) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(value >= min && value <= max)) {
      return Error("'" + text + "' is no number from " + std::to_string(static_cast<int64_t>(min)) +
                   " to " + std::to_string(static_cast<int64_t>(max)));
    }
    set(value);
  }

  const RestClient& client_;
  ChatOptions options_;
  Json messages_;
};

int Talk(const RestClient& client, const ChatOptions& options, const std::string& url) {
  Conversation conversation(client, options);
  if (!options.message.empty()) return conversation.Ask(options.message) ? 0 : 1;
  Note(options.model + " at " + url + "; /help lists commands, Ctrl-D ends");
  const std::string state = options.state.empty() ? DefaultStateDir() : options.state;
  const bool keeps = !options.no_history && access(state.c_str(), W_OK) == 0;
  LineEditor editor(keeps ? state + "/chat_history" : "");
  while (const std::optional<std::string> line = editor.Next("> ")) {
    if (line->empty()) continue;
    if (!line->starts_with('/')) {
      conversation.Ask(*line);
    } else if (!conversation.Command(*line)) {
      break;
    }
  }
  return 0;
}

}  // namespace

int RunChat(int argc, const char* const* argv) {
  ChatOptions o;
  OptionSet set("choir chat", "Talks to a running cluster.", "");
  set.Add(&o.url,
          {.flag = "--url", .help = "of the REST API [CHOIR_URL, else the running choir up]"});
  set.Add(&o.model, {.flag = "--model", .help = "model name [the first one served]"});
  set.Add(&o.state, {.flag = "--state", .help = "state directory of choir up"});
  set.Add(&o.message, {.flag = "--message", .help = "ask this one thing and exit"});
  set.Add(&o.system, {.flag = "--system", .help = "system message"});
  set.Add(&o.sampling.max_tokens, {.flag = "--max-tokens", .help = "longest answer"}, 1, 1 << 20);
  set.Add(&o.sampling.temperature,
          {.flag = "--temperature", .help = "0 is greedy; below 0: the server's default"}, -1, 2);
  set.Add(&o.no_history,
          {.flag = "--no-history",
           .help = "do not keep what is typed in chat_history of the state directory"});
  if (const auto code = set.Parse(argc, argv)) return *code;
  const auto address = FindCluster(o.url, o.state);
  if (!address.ok()) return Error(MessageOf(address.status())), 1;
  const RestClient client(address->url, address->api_key, address->ca);
  if (o.model.empty()) {
    const auto model = FirstModel(client);
    if (!model.ok()) return Error(MessageOf(model.status())), 1;
    o.model = *model;
  }
  return Talk(client, o, address->url);
}

}  // namespace choir
