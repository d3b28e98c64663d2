#include "tests/sim/sim_requests.h"

#include <nlohmann/json.hpp>

namespace choir::sim {
namespace {

using Json = nlohmann::ordered_json;

std::string Words(SimRandom* random, int64_t count) {
  static constexpr const char* kWords[] = {"the", "choir", "sings", "of",
                                           "ten", "ranks", "é",     "東京"};
  std::string text;
  for (int64_t i = 0; i < count; ++i) {
    if (i > 0) text += " ";
    text += kWords[random->Between(0, 7)];
  }
  return text;
}

void AddSampling(SimRandom* random, bool chat, Json* body) {
  (*body)["max_tokens"] = random->Between(1, 40);
  (*body)["seed"] = random->Between(0, 1'000'000);
  (*body)["temperature"] = random->Chance(0.3) ? 0.0 : 1.0;
  if (random->Chance(0.3)) (*body)["top_p"] = 0.8;
  if (random->Chance(0.2)) (*body)["n"] = random->Between(2, 4);
  if (random->Chance(0.2)) (*body)["stop"] = Json::array({"a", "the"});
  if (random->Chance(0.2)) (*body)["frequency_penalty"] = 0.5;
  if (random->Chance(0.3)) {
    if (chat) {
      (*body)["logprobs"] = true;
      (*body)["top_logprobs"] = 2;
    } else {
      (*body)["logprobs"] = 2;
    }
  }
}

}  // namespace

std::vector<SimRequest> DrawRequests(SimRandom* random, size_t count, Duration within) {
  std::vector<SimRequest> requests;
  for (size_t i = 0; i < count; ++i) {
    SimRequest request;
    request.name = "q" + std::to_string(i);
    request.arrives = random->Micros(0, within / std::chrono::microseconds(1));
    if (!requests.empty() && random->Chance(0.2)) {  // the same again, by the same client
      const auto which =
          static_cast<size_t>(random->Between(0, static_cast<int64_t>(requests.size()) - 1));
      request.chat = requests[which].chat;
      request.body = requests[which].body;
      request.key = requests[which].key;
      request.tenant = requests[which].tenant;
      requests.push_back(std::move(request));
      continue;
    }
    request.chat = random->Chance(0.5);
    Json body = {{"model", "sim"}};
    const int64_t words = random->Between(1, 20);
    if (request.chat) {
      body["messages"] = {{{"role", "user"}, {"content", Words(random, words)}}};
    } else {
      body["prompt"] = Words(random, words);
    }
    AddSampling(random, request.chat, &body);
    request.body = body.dump();
    if (random->Chance(0.1)) request.cancelled_after = random->Millis(0, 300);
    if (random->Chance(0.05)) {
      request.timeout_seconds = static_cast<double>(random->Between(20, 2000)) / 1000;
    }
    const auto own = static_cast<size_t>(random->Between(0, 3));
    const bool classless = random->Chance(0.2);
    request.key = classless ? kSecret : kClassSecrets[own];
    request.tenant = classless ? kTenant : AdmissionClassName(kAdmissionClasses[own]);
    const auto asked = static_cast<size_t>(random->Between(static_cast<int64_t>(own), 3));
    if (!classless && random->Chance(0.3)) {
      request.wanted_class = AdmissionClassName(kAdmissionClasses[asked]);
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace choir::sim
