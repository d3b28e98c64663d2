#include "tests/router/relay/lossy_world.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/base/version.h"
#include "tests/support/tiny_model.h"

namespace choir {
namespace {

// Bytes of odd and even characters, tags, and rarely the end.
constexpr const char* kAlphabet[] = {"a",  "b", "ab", "STOP",         "ST",
                                     "\n", " ", "é",  "\xE2\x82\xAC", "\xF0\x9F\x8E\xB5"};

uint64_t Mix(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  return x ^ (x >> 33);
}

}  // namespace

LossyWorld::LossyWorld(RelayRequest request, uint64_t seed, int num_workers)
    : rng_(seed), membership_(kTinyVocab), relay_(std::move(request), {}, this, &next_id_) {
  hosts_.resize(num_workers);
  for (int i = 0; i < num_workers; ++i) {
    hosts_[i].index = membership_.Add("host:" + std::to_string(i));
  }
}

// A long stream of bytes: word k of the alphabet is a function of (seed, choice, k); a token is a
// byte of it.
int32_t LossyWorld::NextToken(const Running& running) const {
  const size_t position = running.generated.size();
  const uint64_t key = Mix(running.submit.sampling.seed * 131 + running.submit.choice);
  size_t at = 0;
  for (uint64_t word = 0;; ++word) {
    const uint64_t r = Mix(key + word);
    if (r % 97 == 0) return kTinyEos;
    if (r % 29 == 0) {
      if (at++ == position) return r & 1024 ? kTinyThinkOpen : kTinyThinkClose;
      continue;
    }
    const std::string text = kAlphabet[(r >> 20) % std::size(kAlphabet)];
    if (position < at + text.size()) return static_cast<uint8_t>(text[position - at]);
    at += text.size();
  }
}

std::optional<Placement> LossyWorld::Place(const PlaceQuery& query) {
  const auto pick = policy_->Choose(membership_.ranks(), query);
  if (!pick) return std::nullopt;
  policy_->OnPlaced(query, *pick, *membership_.Find(pick->placement.worker));
  membership_.Assign(pick->placement.worker, pick->placement.counted_tokens);
  return pick->placement;
}

void LossyWorld::Connect(Host& host) {
  host.connected = true;
  ++host.connection;
  membership_.OnConnecting(host.index, host.connection);
  WorkerIdentity identity;
  identity.protocol_version = kProtocolVersion;
  identity.worker_id = "w" + std::to_string(host.index.value());
  identity.numerics_id = "n";
  identity.vocab_size = kTinyVocab;
  CHOIR_CHECK(membership_.OnHello(host.index, identity).ok());
  host.outbox.push_back({.is_state = true, .epoch = host.epoch, .updates = {}});
}

void LossyWorld::LoseAll(Host& host, LossCause cause) {
  std::vector<SequenceId> lost;
  for (const auto& [id, worker] : live_) {
    if (worker == host.index) lost.push_back(id);
  }
  for (const SequenceId id : lost) {
    live_.erase(id);
    ++losses_;
    if (cause == LossCause::kEpochEnded) {
      host.inbox.push_back(
          CancelSequenceAction{host.index, id});  // it may have come after the change
    }
    Relay::Actions actions;
    relay_.OnLost(id, cause, now_, &actions);
    Act(std::move(actions));
  }
}

void LossyWorld::Kill(Host& host) {
  if (!host.connected) return;
  host.connected = false;
  host.running.clear();
  host.inbox.clear();
  // What was on the wire arrives in part.
  for (uint64_t n = Random(host.outbox.size() + 1); n > 0; --n) DeliverOne(host);
  host.outbox.clear();
  host.inbox.clear();
  membership_.OnStreamLost(host.index, "killed");
  LoseAll(host, LossCause::kWorkerLost);
}

void LossyWorld::NewEpoch(Host& host) {
  if (!host.connected) return;
  if (Chance(0.5)) {
    Message lost{.is_state = false, .epoch = host.epoch, .updates = {}};
    for (const auto& [id, running] : host.running) {
      SequenceUpdate update;
      update.id = id;
      update.end = SequenceEnd::kLost;
      lost.updates.push_back(update);
    }
    host.outbox.push_back(std::move(lost));
  }
  host.running.clear();
  ++host.epoch;
  host.outbox.push_back({.is_state = true, .epoch = host.epoch, .updates = {}});
}

void LossyWorld::TakeOne(Host& host, double disasters) {
  if (host.inbox.empty()) return;
  RelayAction action = std::move(host.inbox.front());
  host.inbox.pop_front();
  Message answer{.is_state = false, .epoch = host.epoch, .updates = {}};
  if (auto* submit = std::get_if<SubmitAction>(&action)) {
    if (Chance(disasters)) {
      SequenceUpdate update;
      update.id = submit->submit.id;
      update.end = submit->submit.token_ids.size() > submit->submit.num_prompt_tokens
                       ? SequenceEnd::kRefused
                       : SequenceEnd::kCancelled;
      answer.updates.push_back(update);
    } else {
      Running running;
      running.submit = std::move(submit->submit);
      const auto& ids = running.submit.token_ids;
      running.generated.assign(ids.begin() + running.submit.num_prompt_tokens, ids.end());
      host.running.emplace(running.submit.id, std::move(running));
    }
  } else {
    const SequenceId id = std::get<CancelSequenceAction>(action).id;
    SequenceUpdate update;
    update.id = id;
    update.end = SequenceEnd::kCancelled;
    if (host.running.erase(id) != 0) answer.updates.push_back(update);
  }
  if (!answer.updates.empty()) host.outbox.push_back(std::move(answer));
}

void LossyWorld::Step(Host& host) {
  Message step{.is_state = false, .epoch = host.epoch, .updates = {}};
  for (auto it = host.running.begin(); it != host.running.end();) {
    Running& running = it->second;
    SequenceUpdate update;
    update.id = it->first;
    for (uint64_t n = 1 + Random(3); n > 0 && update.end == SequenceEnd::kNone; --n) {
      const int32_t token = NextToken(running);
      running.generated.push_back(token);
      update.token_ids.push_back(token);
      update.logprobs.push_back({-1.0f, {token}, {-1.0f}});
      if (token == kTinyEos) update.end = SequenceEnd::kStop;
      if (running.generated.size() >= running.submit.sampling.max_tokens) {
        update.end = SequenceEnd::kLength;
      }
    }
    const bool over = update.end != SequenceEnd::kNone;
    step.updates.push_back(std::move(update));
    it = over ? host.running.erase(it) : std::next(it);
  }
  if (!step.updates.empty()) host.outbox.push_back(std::move(step));
}

void LossyWorld::DeliverOne(Host& host) {
  if (host.outbox.empty()) return;
  const Message message = std::move(host.outbox.front());
  host.outbox.pop_front();
  Relay::Actions actions;
  if (message.is_state) {
    WorkerStateReport state;
    state.ready = true;
    state.epoch = message.epoch;
    if (membership_.OnState(host.index, state)) LoseAll(host, LossCause::kEpochEnded);
    relay_.OnPlaceable(now_, &actions);
    Act(std::move(actions));
    return;
  }
  for (const SequenceUpdate& update : message.updates) {
    if (update.end != SequenceEnd::kNone) live_.erase(update.id);
    actions.clear();
    relay_.OnUpdate(update, now_, &actions);
    Act(std::move(actions));
  }
}

void LossyWorld::Act(Relay::Actions actions) {
  for (RelayAction& action : actions) {
    CHOIR_CHECK(!received_.finished && !received_.error);
    if (auto* submit = std::get_if<SubmitAction>(&action)) {
      live_[submit->submit.id] = submit->worker;
      hosts_[submit->worker.value()].inbox.push_back(std::move(action));
    } else if (auto* cancel = std::get_if<CancelSequenceAction>(&action)) {
      live_.erase(cancel->id);
      hosts_[cancel->worker.value()].inbox.push_back(std::move(action));
    } else if (auto* deliver = std::get_if<DeliverAction>(&action)) {
      ActOn(*deliver);
    } else if (auto* finish = std::get_if<FinishAction>(&action)) {
      received_.finished = true;
      received_.usage = finish->usage;
    } else {
      received_.error = std::get<FailAction>(action).error;
    }
  }
}

void LossyWorld::ActOn(const DeliverAction& deliver) {
  const ChoiceDelta& delta = deliver.delta;
  CHOIR_CHECK(received_.finish[delta.choice].empty());
  received_.text[delta.choice] += delta.text;
  received_.reasoning[delta.choice] += delta.reasoning;
  auto& tokens = received_.tokens[delta.choice];
  tokens.insert(tokens.end(), delta.token_ids.begin(), delta.token_ids.end());
  for (const TokenLogprob& l : delta.logprobs) {
    received_.logprob_tokens[delta.choice].push_back(l.token_id);
  }
  received_.finish[delta.choice] = delta.finish_reason;
}

void LossyWorld::RandomEvent(double disasters) {
  Host& host = hosts_[Random(hosts_.size())];
  if (Chance(disasters)) {
    if (Chance(0.5)) {
      Kill(host);
    } else {
      NewEpoch(host);
    }
    return;
  }
  switch (Random(5)) {
    case 0:
      if (!host.connected) Connect(host);
      break;
    case 1:
      TakeOne(host, disasters);
      break;
    case 2:
      if (host.connected) Step(host);
      break;
    case 3:
      DeliverOne(host);
      break;
    default: {
      now_ += std::chrono::milliseconds(Random(300));
      Relay::Actions actions;
      if (now_ >= relay_.NextTimer()) relay_.OnTimer(now_, &actions);
      Act(std::move(actions));
    }
  }
}

void LossyWorld::Calm() {
  for (int i = 0; i < 20000; ++i) {
    for (Host& host : hosts_) {
      if (!host.connected) Connect(host);
      TakeOne(host, 0);
      Step(host);
      DeliverOne(host);
    }
    now_ += std::chrono::milliseconds(10);
    Relay::Actions actions;
    relay_.OnTimer(now_, &actions);
    Act(std::move(actions));
    const bool quiet = std::all_of(hosts_.begin(), hosts_.end(), [](const Host& h) {
      return h.inbox.empty() && h.outbox.empty() && h.running.empty();
    });
    if (relay_.over() && quiet) return;
  }
}

void LossyWorld::Run(int steps, double disasters) {
  Relay::Actions actions;
  relay_.Start(now_, &actions);
  Act(std::move(actions));
  for (int i = 0; i < steps && !relay_.over(); ++i) RandomEvent(disasters);
  Calm();
}

void LossyWorld::RunAndCancel(int steps, double disasters) {
  Relay::Actions actions;
  relay_.Start(now_, &actions);
  Act(std::move(actions));
  for (int i = 0; i < steps && !relay_.over(); ++i) RandomEvent(disasters);
  actions.clear();
  relay_.Abort(ClientGone("gone"), &actions);
  Act(std::move(actions));
  Calm();
}

size_t LossyWorld::held_by_workers() const {
  size_t n = 0;
  for (const Host& host : hosts_) n += host.running.size();
  return n + live_.size();
}

}  // namespace choir
