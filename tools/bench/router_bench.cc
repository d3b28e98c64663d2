// router_bench MODEL_DIR: what the router's core costs without sockets, on one thread. Prints
//  - the relay: tokens a second from a worker's bytes to a gateway's bytes, at 64 sequences a
//    worker, and the memory of an open stream;
//  - a prompt of 500 KB from a gateway's bytes to a worker's, against its tokenization alone.
// Decisions are in policy_bench.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/version.h"
#include "router/policy/policy.h"
#include "router/rpc/convert.h"

namespace choir {
namespace {

constexpr size_t kSequencesPerWorker = 64;

double Now() { return Seconds(Clock::Real().Now().time_since_epoch()); }

double ResidentMb() {
  std::ifstream file("/proc/self/statm");
  double pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
}

// All that a round writes to one gateway.
struct Gateway {
  v1::EdgeDown pending;
  std::string bytes;
  uint64_t events = 0;
  void Flush() {
    events += static_cast<uint64_t>(pending.events_size());
    pending.SerializeToString(&bytes);
    pending.Clear();
  }
};

class Client final : public ClientStream {
 public:
  Client(Gateway* gateway, uint64_t id) : gateway_(gateway), id_(id) {}
  bool Accepted(const AcceptedInfo& info) override {
    v1::EdgeEvent* event = gateway_->pending.add_events();
    event->set_id(id_);
    event->mutable_accepted()->set_request_id(info.request_id);
    return true;
  }
  bool Delta(ChoiceDelta delta) override {
    v1::EdgeEvent* event = gateway_->pending.add_events();
    event->set_id(id_);
    ToProto(std::move(delta), event->mutable_delta());
    return true;
  }
  void Done(const Usage&) override {}
  void Fail(const ApiError& error, const FailedInfo&) override {
    std::fprintf(stderr, "refused: %s\n", error.message.c_str());
    CHOIR_CHECK(false);
  }

 private:
  Gateway* const gateway_;
  const uint64_t id_;
};

// The streams to the workers: what would be sent to each.
class Links final : public WorkerLinks {
 public:
  void Submit(WorkerIndex worker, SequenceSubmit submit) override {
    running[worker.value()].push_back(submit.id.value());
    v1::ToWorker message;
    ToProto(std::move(submit), message.add_submits());
    message.SerializeToString(&bytes);
  }
  void Cancel(WorkerIndex, SequenceId) override {}
  void Reconcile(WorkerIndex, const std::vector<SequenceId>&) override {}
  void Disconnect(WorkerIndex, const std::string&) override {}

  std::map<uint32_t, std::vector<uint64_t>> running;
  std::string bytes;
};

class World {
 public:
  World(const ModelText* model, size_t workers) {
    RouterSettings settings;
    settings.model_name = "model";
    RouterParts parts;
    parts.clock = &Clock::Real();
    parts.model = model;
    parts.identity = &identity_;
    parts.limits = limits_.get();
    parts.admission = admission_.get();
    parts.audit = audit_.get();
    parts.metrics = &metrics_;
    parts.links = &links;
    parts.run_text = [](const std::function<void()>& work, const std::function<void()>& then) {
      work();
      then();
      return true;
    };
    parts.random = [this] { return ++random_ * 0x9E3779B97F4A7C15u; };
    core = std::make_unique<RouterCore>(settings, parts);
    for (size_t i = 0; i < workers; ++i) {
      const WorkerIndex worker = core->AddWorker("worker:" + std::to_string(i));
      core->OnWorkerConnecting(worker, i + 1);
      WorkerIdentity identity;
      identity.worker_id = "g" + std::to_string(i) + "r0";
      identity.model_id = "model";
      identity.numerics_id = "n";
      identity.protocol_version = kProtocolVersion;
      CHOIR_CHECK(core->OnWorkerHello(worker, identity).ok());
      core->OnWorkerState(worker, {.ready = true, .epoch = 1});
    }
  }

  ~World() { core.reset(); }

  void Open(RequestInput input) {
    input.certificate.identity = "tenant/bench";
    input.model = "model";
    ++opened_;
    core->Open(std::move(input), std::make_shared<Client>(&gateway, opened_));
  }

  // One step of every worker: a token for each of its sequences.
  void Step(int32_t token) {
    for (const auto& [worker, sequences] : links.running) {
      v1::FromWorker made;
      v1::StepResult* step = made.mutable_step();
      step->set_epoch(1);
      for (const uint64_t id : sequences) {
        v1::SequenceUpdate* update = step->add_updates();
        update->set_id(id);
        update->add_token_ids(token);
      }
      step->mutable_load()->set_running(static_cast<uint32_t>(sequences.size()));
      made.SerializeToString(&bytes_);
      const double begin = Now();
      v1::FromWorker message;
      CHOIR_CHECK(message.ParseFromString(bytes_));
      CHOIR_CHECK(CheckFromWorker(message, 0).ok());
      core->OnWorkerStep(WorkerIndex(worker), FromProto(message.step()));
      core->OnTimer();
      gateway.Flush();
      relay_seconds += Now() - begin;
    }
  }

  Links links;
  Gateway gateway;
  double relay_seconds = 0;
  std::unique_ptr<RouterCore> core;

 private:
  uint64_t random_ = 0, opened_ = 0;
  std::string bytes_;
  Identity identity_{std::vector<KeyRecord>{}};
  Metrics registry_{"router"};
  RouterMetrics metrics_{&registry_, "model"};
  std::unique_ptr<Limits> limits_ = MakeNoLimits();
  std::unique_ptr<Admission> admission_ = std::make_unique<Admission>(AdmissionConfig(), 1'000'000);
  std::unique_ptr<Audit> audit_ = MakeNoAudit();
};

RequestInput Ids(size_t count, uint32_t max_tokens) {
  RequestInput input;
  input.content = PromptIds{std::vector<int32_t>(count, 'a')};
  input.sampling.max_tokens = max_tokens;
  input.sampling.ignore_eos = true;
  return input;
}

void BenchRelay(const ModelText* model, size_t streams) {
  constexpr int kTokens = 200;
  const double before = ResidentMb();
  World world(model, std::max<size_t>(1, streams / kSequencesPerWorker));
  for (size_t i = 0; i < streams; ++i) world.Open(Ids(64, 2 * kTokens));
  world.gateway.Flush();
  std::vector<double> rates;
  double last_seconds = 0;
  for (int i = 0; i < kTokens; ++i) {
    world.Step('a' + i % 26);
    rates.push_back(static_cast<double>(streams) / (world.relay_seconds - last_seconds));
    last_seconds = world.relay_seconds;
  }
  std::sort(rates.begin(), rates.end());
  const double mb = ResidentMb() - before;
  std::printf("relay, %6zu streams: %9.0f tokens/s (median step), %6.1f MB, %5.1f KB a stream\n",
              streams, rates[rates.size() / 2], mb, mb * 1000 / static_cast<double>(streams));
}

void BenchLongPrompt(const ModelText* model) {
  constexpr size_t kBytes = 500'000;
  std::string text;
  for (uint64_t x = 1; text.size() < kBytes; x = x * 6364136223846793005u + 1) {
    const size_t letters = 2 + (x >> 60) % 8;
    for (size_t i = 0; i < letters; ++i) text += static_cast<char>('a' + (x >> (5 * i + 10)) % 26);
    text += (x >> 33) % 12 == 0 ? ".\n" : " ";
  }
  World world(model, 1);
  std::vector<double> ratios, times;
  for (int i = 0; i < 11; ++i) {
    v1::EdgeOpen open;
    open.mutable_generate()->set_prompt(text);
    open.mutable_generate()->mutable_sampling()->set_max_tokens(1);
    const std::string bytes = open.SerializeAsString();
    double begin = Now();
    CHOIR_CHECK(model->tokenizer().Encode(text, true).ok());
    const double alone = Now() - begin;
    begin = Now();
    v1::EdgeOpen came;
    CHOIR_CHECK(came.ParseFromString(bytes));
    world.Open(FromProto(std::move(came)));
    ratios.push_back((Now() - begin) / alone);
    times.push_back(alone * 1e3);
  }
  std::sort(ratios.begin(), ratios.end());
  std::sort(times.begin(), times.end());
  std::printf("prompt of 500 KB: tokenization %.1f ms, the whole way %.2fx of it\n", times[5],
              ratios[5]);
}

int Run(const std::string& dir) {
  CHOIR_CHECK(InitLog("router_bench", "error").ok());
  const auto model = ModelText::Load(dir, 512);
  if (!model.ok()) {
    std::fprintf(stderr, "router_bench: %s\n", MessageOf(model.status()).c_str());
    return 1;
  }
  for (const size_t streams : {64, 100, 1'000, 10'000}) BenchRelay(model->get(), streams);
  BenchLongPrompt(model->get());
  return 0;
}

}  // namespace
}  // namespace choir

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: router_bench MODEL_DIR\n");
    return 2;
  }
  return choir::Run(argv[1]);
}
