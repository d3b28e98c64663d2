#include "tools/choir/chat_answer.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>

#include "common/base/clock.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

volatile sig_atomic_t g_interrupted = 0;

void OnInterrupt(int) { g_interrupted = 1; }

// SIGINT sets the flag while this lives.
class InterruptGuard {
 public:
  InterruptGuard() {
    g_interrupted = 0;
    struct sigaction action {};
    action.sa_handler = OnInterrupt;
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptGuard() { sigaction(SIGINT, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

std::string TextOf(const Json& delta, const char* key) {
  const auto at = delta.find(key);
  return at != delta.end() && at->is_string() ? at->get<std::string>() : "";
}

// A model must not steer the terminal: of its control characters only line ends and tabs stay.
std::string Harmless(std::string text) {
  std::erase_if(text, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f;
  });
  return text;
}

class Printer {
 public:
  ~Printer() {
    if (in_reasoning_ && colours_) std::fputs("\033[0m", stdout);
    std::fputs("\n", stdout);
  }

  void Print(const std::string& reasoning, const std::string& content) {
    if (!reasoning.empty()) Enter(true);
    std::fputs(Harmless(reasoning).c_str(), stdout);
    if (!content.empty()) Enter(false);
    std::fputs(Harmless(content).c_str(), stdout);
    std::fflush(stdout);
  }

 private:
  void Enter(bool reasoning) {
    if (reasoning == in_reasoning_) return;
    in_reasoning_ = reasoning;
    if (colours_) {
      std::fputs(reasoning ? "\033[2m" : "\033[0m\n\n", stdout);
    } else {
      std::fputs(reasoning ? "[thinking] " : "\n[answer] ", stdout);
    }
  }

  const bool colours_ = isatty(STDOUT_FILENO) != 0;
  bool in_reasoning_ = false;
};

void ReadUsage(const Json& event, ChatAnswer* answer) {
  const auto usage = event.find("usage");
  if (usage == event.end() || !usage->is_object()) return;
  answer->prompt_tokens = usage->value("prompt_tokens", int64_t{0});
  answer->output_tokens = usage->value("completion_tokens", int64_t{0});
  answer->cached_tokens = usage->value("prompt_cache_hit_tokens", int64_t{0});
}

}  // namespace

StatusOr<ChatAnswer> StreamChatAnswer(const RestClient& client, const std::string& model,
                                      const Json& messages, const ChatSampling& sampling) {
  Json body = {{"model", model},
               {"messages", messages},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}},
               {"max_tokens", sampling.max_tokens}};
  if (sampling.temperature >= 0) body["temperature"] = sampling.temperature;
  ChatAnswer answer;
  Printer printer;
  const InterruptGuard guard;
  const MonoTime start = Clock::Real().Now();
  MonoTime first = start;
  bool any = false;
  const Status status = client.Stream("/v1/chat/completions", body.dump(), [&](const Json& event) {
    ReadUsage(event, &answer);
    for (const Json& choice : event.value("choices", Json::array())) {
      const Json delta = choice.value("delta", Json::object());
      const std::string reasoning = TextOf(delta, "reasoning_content");
      const std::string content = TextOf(delta, "content");
      if (reasoning.empty() && content.empty()) continue;
      const MonoTime now = Clock::Real().Now();
      if (!any) first = now;
      any = true;
      answer.first_seconds = Seconds(first - start);
      answer.stream_seconds = Seconds(now - first);
      printer.Print(reasoning, content);
      answer.content += content;
    }
    return g_interrupted == 0;
  });
  answer.cancelled = g_interrupted != 0;
  if (!status.ok() && !answer.cancelled) return status;
  return answer;
}

std::string FiguresOf(const ChatAnswer& answer) {
  std::string text = answer.cancelled ? "cancelled" : "";
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  if (answer.output_tokens > 0) add(fmt::format("{} tokens", answer.output_tokens));
  if (answer.output_tokens > 1 && answer.stream_seconds > 0) {
    const double rate = static_cast<double>(answer.output_tokens - 1) / answer.stream_seconds;
    add(fmt::format("{:.1f} tok/s", rate));
  }
  if (answer.first_seconds > 0) add(fmt::format("first after {:.2f} s", answer.first_seconds));
  if (answer.cached_tokens > 0) {
    add(fmt::format("{} of {} prompt tokens cached", answer.cached_tokens, answer.prompt_tokens));
  }
  return text;
}

}  // namespace choir
