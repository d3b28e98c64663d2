// A whole router process (without its command line) on free ports, with fake workers.
#pragma once

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "choir/v1/edge.grpc.pb.h"
#include "choir/v1/inference.grpc.pb.h"
#include "router/identity/keys.h"
#include "router/rpc/router_process.h"
#include "tests/router/rpc/fake_worker.h"
#include "tests/support/tiny_model.h"

namespace choir {

// All of one answer.
struct Answer {
  grpc::Status status;
  std::map<uint32_t, std::string> text;
  std::map<uint32_t, std::string> reasoning;
  std::map<uint32_t, std::string> finish;
  std::map<uint32_t, size_t> tokens;
  size_t logprobs = 0;
  std::string request_id;
  int64_t seed = 0;
  std::optional<v1::Usage> usage;

  void Add(const v1::GenerateEvent& event);
};

class RouterFixture : public testing::Test {
 protected:
  RouterFixture();

  // Starts the router towards these workers and waits until `ready` of them are.
  void StartRouter(const std::vector<const FakeWorker*>& workers, size_t ready);
  void WaitReady(size_t ready);
  nlohmann::json StatusPage() { return nlohmann::json::parse(router_->StatusJson()); }
  // Waits until the page satisfies the condition.
  template <typename Condition>
  bool WaitStatus(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::chrono::steady_clock::now() < end) {
      if (condition(StatusPage())) return true;
    }
    return false;
  }
  void ExpectLedgersBalance();

  std::unique_ptr<grpc::ClientContext> Context(const std::string& key = "-");
  v1::GenerateRequest Prompt(const std::string& text, uint32_t max_tokens, int64_t seed = 0);
  Answer Generate(const v1::GenerateRequest& request, const std::string& key = "-");

  TinyModel model_;
  NewKey key_;
  RouterOptions options_;
  std::unique_ptr<RouterProcess> router_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Edge::Stub> edge_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace choir
