// The router's core with everything around it made of plain values: what the fuzz targets of the
// router's two sides share. One thread; time stands still unless it is moved.
#pragma once

#include <cstdlib>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "router/core/router_core.h"
#include "router/identity/keys.h"

namespace choir::fuzz {

class StillClock : public Clock {
 public:
  MonoTime Now() const override { return now; }
  WallTime Wall() const override { return {}; }
  MonoTime now = MonoTime(std::chrono::hours(1));
};

// What the client saw, checked against the protocol of ClientStream.
class CheckedClient : public ClientStream {
 public:
  bool Accepted(const AcceptedInfo& info) override {
    CHOIR_CHECK(!accepted && !ended && !info.request_id.empty());
    accepted = true;
    return true;
  }
  bool Delta(ChoiceDelta delta) override {
    CHOIR_CHECK(accepted && !ended && !finished.contains(delta.choice));
    for (const int32_t id : delta.token_ids) CHOIR_CHECK(id >= 0 && id < vocab);
    if (!delta.finish_reason.empty()) finished.insert(delta.choice);
    return true;
  }
  void Done(const Usage& /*usage*/) override {
    CHOIR_CHECK(accepted && !ended);
    ended = true;
  }
  void Fail(const ApiError& error, const FailedInfo& /*info*/) override {
    CHOIR_CHECK(!ended && error.http >= 400 && error.http < 600 && !error.message.empty());
    ended = true;
  }

  int32_t vocab = 0;
  bool accepted = false, ended = false;
  std::set<uint32_t> finished;
};

class RouterWorld : public WorkerLinks {
 public:
  static constexpr char kSecret[] = "ck-secret";

  RouterWorld() {
    RouterParts parts;
    parts.clock = &clock;
    parts.model = &Model();
    parts.identity = &identity_;
    parts.limits = limits_.get();
    parts.admission = admission_.get();
    parts.audit = audit_.get();
    parts.metrics = &SharedMetrics();
    parts.links = this;
    parts.run_text = [](const auto& work, const auto& then) {
      work();
      then();
      return true;
    };
    parts.random = [this] { return ++random_ * 0x9E3779B97F4A7C15u; };
    core.emplace(RouterSettings{.router_id = "r", .model_name = "tiny"}, std::move(parts));
    for (const char* address : {"a:1", "b:2"}) workers.push_back(core->AddWorker(address));
    for (const WorkerIndex worker : workers) core->OnWorkerConnecting(worker, 1);
  }

  std::shared_ptr<CheckedClient> Open(RequestInput input) {
    auto client = std::make_shared<CheckedClient>();
    client->vocab = Model().vocab_size();
    ids.push_back(core->Open(std::move(input), client));
    clients.push_back(client);
    return client;
  }

  // Everything ends, and the books balance.
  void Close() {
    for (const WorkerIndex worker : workers) core->OnWorkerLost(worker, "the end");
    core->AbortAll();
    for (const auto& client : clients) CHOIR_CHECK(client->ended);
    CHOIR_CHECK(core->idle());
    const auto page = nlohmann::json::parse(core->StatusJson());
    CHOIR_CHECK(page.at("ledgers").at("requests").at("difference") == 0);
    CHOIR_CHECK(page.at("ledgers").at("sequences").at("difference") == 0);
  }

  void Submit(WorkerIndex worker, SequenceSubmit submit) override {
    for (const int32_t id : submit.token_ids) CHOIR_CHECK(id >= 0 && id < Model().vocab_size());
    CHOIR_CHECK(submit.num_prompt_tokens >= 1 &&
                submit.num_prompt_tokens <= submit.token_ids.size());
    CHOIR_CHECK(sequences.emplace(submit.id.value(), worker).second);
  }
  void Cancel(WorkerIndex /*worker*/, SequenceId /*id*/) override {}
  void Reconcile(WorkerIndex /*worker*/, const std::vector<SequenceId>& /*ids*/) override {}
  void Disconnect(WorkerIndex worker, const std::string& reason) override {
    CHOIR_CHECK(!reason.empty());
    cut.insert(worker);
  }

  static const ModelText& Model() {
    static const ModelText* const kModel = [] {
      auto model = ModelText::Load(
          std::string(CHOIR_SOURCE_DIR) + "/tests/golden/checkpoints/tiny_glm4_moe", 16);
      CHOIR_CHECK(model.ok());
      return model->release();
    }();
    return *kModel;
  }

  StillClock clock;
  std::optional<RouterCore> core;
  std::vector<WorkerIndex> workers;
  std::set<WorkerIndex> cut;
  std::map<uint64_t, WorkerIndex> sequences;
  std::vector<uint64_t> ids;
  std::vector<std::shared_ptr<CheckedClient>> clients;

 private:
  // Made once: their hundreds of series would be most of what a run costs.
  static RouterMetrics& SharedMetrics() {
    static Metrics* const kRegistry = new Metrics("router");
    static RouterMetrics* const kMetrics = new RouterMetrics(kRegistry, "tiny");
    return *kMetrics;
  }
  static KeyRecord Key() {
    return {.id = "k",
            .hash = Sha256Of(std::string_view(kSecret)),
            .tenant = "t",
            .created = {},
            .revoked = {}};
  }

  Identity identity_{std::vector<KeyRecord>{Key()}};
  std::unique_ptr<Limits> limits_ = MakeNoLimits();
  std::unique_ptr<Admission> admission_ = std::make_unique<Admission>(AdmissionConfig(), 100);
  std::unique_ptr<Audit> audit_ = MakeNoAudit();
  uint64_t random_ = 0;
};

}  // namespace choir::fuzz
