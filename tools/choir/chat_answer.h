// One answer of a chat, streamed to the terminal: reasoning dimmed apart from the answer, and what
// it took. Main thread; Ctrl-C (SIGINT) while it runs cancels the answer only.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "common/base/status.h"
#include "tools/choir/rest_client.h"

namespace choir {

struct ChatSampling {
  int64_t max_tokens = 512;
  double temperature = -1;  // below 0: the server's default
};

struct ChatAnswer {
  std::string content;  // without the reasoning
  bool cancelled = false;
  int64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;  // 0 after a cancel
  double first_seconds = 0;   // from the request to the first piece
  double stream_seconds = 0;  // from the first piece to the last
};

// Prints to stdout as it comes. An error of the server is returned; what came before it is shown.
StatusOr<ChatAnswer> StreamChatAnswer(const RestClient& client, const std::string& model,
                                      const nlohmann::ordered_json& messages,
                                      const ChatSampling& sampling);

// "42 tokens, 88.1 tok/s, first after 0.12 s"; "cancelled" comes first where it was.
std::string FiguresOf(const ChatAnswer& answer);

}  // namespace choir
