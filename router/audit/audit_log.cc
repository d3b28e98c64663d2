#include "router/audit/audit_log.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "common/base/log.h"

namespace choir {
namespace {

using Json = nlohmann::json;

constexpr Duration kRetry = std::chrono::seconds(1);
constexpr size_t kSlice = 1000;  // records that are tried at once when writing has failed

}  // namespace

StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(AuditLogOptions options, AuditObserver observer,
                                                   Post post, const Clock* clock) {
  CHOIR_ASSIGN_OR_RETURN(std::unique_ptr<AuditStore> store, AuditStore::Open(options.store, clock));
  const AuditRecovery& found = store->recovery();
  if (!found.fresh && !found.clean) {
    CHOIR_LOG(warn, "audit: {} was not closed: {} requests were open, {} bytes torn",
              options.store.dir, found.open.size(), found.torn_bytes);
    std::vector<Json> gap = {
        GapRecord(found.open, found.torn_bytes, 0, "the router ended without closing the log")};
    CHOIR_RETURN_IF_ERROR(store->Append(gap, true).status());
    if (observer.record) observer.record("gap");
  }
  return std::unique_ptr<AuditLog>(new AuditLog(std::move(options), std::move(observer),
                                                std::move(post), clock, std::move(store)));
}

AuditLog::AuditLog(AuditLogOptions options, AuditObserver observer, Post post, const Clock* clock,
                   std::unique_ptr<AuditStore> store)
    : options_(std::move(options)),
      observer_(std::move(observer)),
      post_(std::move(post)),
      clock_(clock),
      names_(store->TakeNames()),
      store_(std::move(store)),
      tenant_keys_(options_.store.keys_dir),
      queue_(options_.backlog_max) {
  next_sync_ = clock_->Now();
  next_checkpoint_ = next_sync_ + options_.checkpoint_interval;
  thread_ = std::thread([this] { Run(); });
}

AuditLog::~AuditLog() { Close(); }

ContentPolicy AuditLog::Policy(const std::string& tenant, TenantKey* key) {
  if (tenant.empty()) return {};
  const StatusOr<TenantKey> found = tenant_keys_.Get(tenant);
  if (!found.ok()) {
    CHOIR_LOG(error, "audit: {}", MessageOf(found.status()));
    return {};
  }
  *key = *found;
  return {key, options_.capture_content};
}

void AuditLog::Intent(AuditIntent intent, Done done) {
  Push({.kind = Kind::kIntent,
        .make = [this, intent = std::move(intent)]() -> StatusOr<Json> {
          TenantKey key;
          const ContentPolicy policy = Policy(intent.request.tenant, &key);
          if (policy.key == nullptr) return Unavailable("the tenant's key cannot be had");
          return IntentRecord(intent, policy);
        },
        .phase = "intent",
        .done = std::move(done)});
}

void AuditLog::Outcome(AuditOutcome outcome, Done done) {
  Push({.kind = Kind::kOutcome,
        .make = [this, outcome = std::move(outcome)]() -> StatusOr<Json> {
          TenantKey key;
          return OutcomeRecord(outcome, Policy(outcome.request.tenant, &key));
        },
        .phase = "outcome",
        .done = std::move(done),
        .give_up = clock_->Now() + options_.outcome_wait});
}

void AuditLog::Refused(AuditRefusal refusal, Done done) {
  Push({.make = [refusal = std::move(refusal)]() -> StatusOr<Json> {
          return RefusedRecord(refusal);
        },
        .phase = "refused",
        .done = std::move(done)});
}

void AuditLog::Admin(std::string event, std::string detail) {
  Push({.make = [event = std::move(event), detail = std::move(detail)]() -> StatusOr<Json> {
          return AdminRecord(event, detail);
        },
        .phase = "admin"});
}

void AuditLog::Push(Item item) {
  // The queue takes its argument by value: what is not taken has to be answered here.
  Done done = item.done;
  if (queue_.TryPush(std::move(item))) return;
  if (observer_.dropped) observer_.dropped(1);
  if (!done) return;
  if (options_.durability == AuditClass::kBestEffort) return done(Receipt());
  done(Unavailable("too many audit records wait to be written"));
}

void AuditLog::Run() {
  pthread_setname_np(pthread_self(), "choir-audit");
  while (true) {
    const Duration wait = failing_ || store_->unsynced() ? options_.sync_interval : kRetry;
    std::vector<Item> batch = queue_.WaitDrain(wait);
    const bool over = batch.empty() && queue_.closed();
    WriteBatch(std::move(batch));
    DoTimed();
    TellWritable();
    Send();
    if (observer_.backlog) observer_.backlog(queue_.size() + kept_.size());
    if (over) break;
  }
  if (!kept_.empty()) {
    CHOIR_LOG(error, "audit: {} records could not be written", kept_.size());
    return;  // the next start finds the log as after a crash and says what is open
  }
  if (const Status status = store_->Close(); !status.ok()) {
    CHOIR_LOG(error, "audit: {}", MessageOf(status));
  }
}

std::vector<AuditLog::Item> AuditLog::MakeRecords(std::vector<Item> batch) {
  std::vector<Item> made;
  for (Item& item : batch) {
    if (item.kind == Kind::kFlush) {
      flushed_.push_back({std::move(item.done), Receipt()});
      continue;
    }
    if (item.make) {
      StatusOr<Json> record = item.make();
      item.make = nullptr;
      if (!record.ok()) {
        if (item.done) answers_.push_back({std::move(item.done), record.status()});
        continue;
      }
      item.made = *std::move(record);
    }
    made.push_back(std::move(item));
  }
  return made;
}

void AuditLog::WriteBatch(std::vector<Item> batch) {
  std::vector<Item> items = MakeRecords(std::move(batch));
  if (kept_.empty() && store_->EnsureReserve().ok()) {
    if (items.empty() || TryWrite(&items).ok()) return;
  }
  items.insert(items.begin(), std::make_move_iterator(kept_.begin()),
               std::make_move_iterator(kept_.end()));
  kept_.clear();
  WriteInTurn(std::move(items));
}

// The disk is full, or was until now: the ends of what runs come first, in the reserve's room where
// there is no other. The rest follows in its order, as far as it goes and the reserve is left.
void AuditLog::WriteInTurn(std::vector<Item> items) {
  const auto middle = std::stable_partition(
      items.begin(), items.end(), [](const Item& item) { return item.kind == Kind::kOutcome; });
  std::vector<Item> rest(std::make_move_iterator(middle), std::make_move_iterator(items.end()));
  items.erase(middle, items.end());
  if (!items.empty()) {
    Status status = TryWrite(&items);
    if (!status.ok() && store_->HasReserve()) {
      store_->ReleaseReserve();
      status = TryWrite(&items);
    }
    if (!status.ok()) OnFailure(status, std::move(items));
  }
  Status status = store_->EnsureReserve();
  size_t written = 0;
  while (status.ok() && written < rest.size()) {
    const size_t end = std::min(written + kSlice, rest.size());
    std::vector<Item> slice(std::make_move_iterator(rest.begin() + static_cast<ptrdiff_t>(written)),
                            std::make_move_iterator(rest.begin() + static_cast<ptrdiff_t>(end)));
    status = TryWrite(&slice);
    if (status.ok()) {
      written = end;
    } else {
      std::move(slice.begin(), slice.end(), rest.begin() + static_cast<ptrdiff_t>(written));
    }
  }
  rest.erase(rest.begin(), rest.begin() + static_cast<ptrdiff_t>(written));
  OnFailure(status, std::move(rest));
}

// Empties `items` when it succeeds.
Status AuditLog::TryWrite(std::vector<Item>* items) {
  std::vector<Json> records;
  if (dropped_ > 0) records.push_back(GapRecord({}, 0, dropped_, "records could not be written"));
  const size_t extra = records.size();
  records.reserve(extra + items->size());
  for (Item& item : *items) records.push_back(std::move(item.made));
  const MonoTime start = clock_->Now();
  const bool durable = options_.durability == AuditClass::kEnforced;
  const StatusOr<uint64_t> first = store_->Append(records, durable);
  if (!first.ok()) {
    for (size_t i = 0; i < items->size(); ++i) (*items)[i].made = std::move(records[extra + i]);
    return first.status();
  }
  if (durable && observer_.fsync) observer_.fsync(Seconds(clock_->Now() - start));
  if (extra > 0 && observer_.record) observer_.record("gap");
  if (failing_) CHOIR_LOG(info, "audit: writing works again");
  failing_ = false;
  dropped_ = 0;
  AnswerWritten(*first + extra, items);
  return absl::OkStatus();
}

void AuditLog::AnswerWritten(uint64_t first_seq, std::vector<Item>* items) {
  for (size_t i = 0; i < items->size(); ++i) {
    Item& item = (*items)[i];
    if (observer_.record) observer_.record(item.phase);
    if (!item.done) continue;
    answers_.push_back({std::move(item.done), fmt::format("{}:{}", store_->log(), first_seq + i)});
  }
  items->clear();
}

void AuditLog::Drop(uint64_t records) {
  dropped_ += records;
  if (observer_.dropped) observer_.dropped(records);
}

void AuditLog::OnFailure(const Status& status, std::vector<Item> items) {
  if (!status.ok()) why_ = MessageOf(status);
  if (items.empty()) return;
  if (!failing_) CHOIR_LOG(error, "audit: {}", why_);
  failing_ = true;
  for (Item& item : items) {
    const bool best_effort = options_.durability == AuditClass::kBestEffort;
    if (best_effort || item.kind == Kind::kIntent) {
      // A refused intent was never begun: its client is told, and the `refused` record follows.
      if (best_effort) Drop(1);
      if (item.done) {
        answers_.push_back({std::move(item.done), best_effort ? StatusOr<Receipt>(Receipt())
                                                              : StatusOr<Receipt>(status)});
      }
      continue;
    }
    if (item.kind == Kind::kOther && item.done) {
      answers_.push_back({std::move(item.done), status});
      item.done = nullptr;
    }
    // Half of the room is for ends alone.
    const size_t room = options_.backlog_max / (item.kind == Kind::kOutcome ? 1 : 2);
    if (kept_.size() < room) {
      kept_.push_back(std::move(item));
    } else {
      Drop(1);
      if (item.done) answers_.push_back({std::move(item.done), status});
    }
  }
}

// The record of an outage is also what tries, when no request comes any more, whether it is over.
void AuditLog::TellWritable() {
  if (options_.durability == AuditClass::kBestEffort) return;
  const MonoTime now = clock_->Now();
  const bool fails = failing_ || !store_->HasReserve();
  if (fails) failed_ = now;
  const bool writable = told_writable_ ? !fails : now - failed_ >= options_.settle_time;
  if (writable == told_writable_) return;
  told_writable_ = writable;
  Status told;
  if (!writable) {
    told = Unavailable("the audit log cannot be written: {}", why_);
    kept_.push_back({.phase = "admin", .made = AdminRecord("unwritable", why_)});
  }
  post_([state = writable_, told = std::move(told)] { *state = told; });
}

void AuditLog::GiveUpWaiting() {
  const MonoTime now = clock_->Now();
  for (Item& item : kept_) {
    if (!item.done || now < item.give_up) continue;
    answers_.push_back({std::move(item.done), Unavailable("the outcome cannot be written")});
    item.done = nullptr;
    if (item.made["status"] == 200) item.made.update({{"status", 503}, {"code", "audit"}});
  }
}

// Everything that is due by the clock and not by a record.
void AuditLog::DoTimed() {
  const MonoTime now = clock_->Now();
  GiveUpWaiting();
  Status status;
  if (store_->unsynced() && now >= next_sync_) {
    status = store_->Sync();
    if (observer_.fsync) observer_.fsync(Seconds(clock_->Now() - now));
    next_sync_ = now + options_.sync_interval;
  }
  if (status.ok()) status = store_->RotateIfDue();
  if (status.ok() && now >= next_checkpoint_) {
    status = store_->Checkpoint();
    next_checkpoint_ = now + options_.checkpoint_interval;
  }
  if (!status.ok() && !failing_) CHOIR_LOG(error, "audit: {}", MessageOf(status));
}

void AuditLog::Send() {
  std::move(flushed_.begin(), flushed_.end(), std::back_inserter(answers_));
  flushed_.clear();
  if (answers_.empty()) return;
  post_([answers = std::make_shared<std::vector<Answer>>(std::move(answers_))] {
    for (Answer& answer : *answers) answer.done(std::move(answer.receipt));
  });
  answers_.clear();
}

void AuditLog::Flush(std::function<void()> done) {
  Push({.kind = Kind::kFlush, .done = [done = std::move(done)](StatusOr<Receipt>) { done(); }});
}

void AuditLog::Close() {
  if (!thread_.joinable()) return;
  queue_.Close();
  thread_.join();
}

}  // namespace choir
