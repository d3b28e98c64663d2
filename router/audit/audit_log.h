// The audit log of a router: takes intents, outcomes and refusals from the owner thread, writes
// them on a thread of its own in groups (one write and one fdatasync for all that waited), and
// answers on the owner thread.
//
//   enforced     an answer means: on the disk. What cannot be written is refused.
//   bounded      an answer means: written; on the disk within sync_interval. What cannot be
//                written is refused.
//   best-effort  an answer means: written, or given up. Nothing is refused for the log's sake;
//                what was lost is counted, and a gap record says how many once writing works again.
//
// What cannot be written but intents is kept (at most backlog_max records, half of that for
// outcomes alone) and tried again, outcomes first. Their requests are answered with an error after
// outcome_wait, and the record, which then says so, follows when it can.
//
// While it refuses, Writable() says why, until writing has worked for settle_time: a full disk has
// room for single records now and then.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/runtime/bounded_queue.h"
#include "router/audit/audit.h"
#include "router/audit/audit_record.h"
#include "router/audit/audit_store.h"

namespace choir {

enum class AuditClass { kEnforced, kBounded, kBestEffort };

struct AuditLogOptions {
  AuditStoreOptions store;
  AuditClass durability = AuditClass::kEnforced;
  bool capture_content = false;
  Duration sync_interval = std::chrono::milliseconds(100);  // bounded: how much may be lost
  Duration checkpoint_interval = std::chrono::seconds(60);
  Duration outcome_wait = std::chrono::seconds(5);
  Duration settle_time = std::chrono::seconds(5);  // after a failure, until Writable() says yes
  size_t backlog_max = 100'000;                    // records
};

// Called from the writer thread.
struct AuditObserver {
  std::function<void(const std::string& phase)> record;
  std::function<void(double seconds)> fsync;
  std::function<void(size_t records)> backlog;
  std::function<void(uint64_t records)> dropped;
};

class AuditLog final : public Audit {
 public:
  // Runs a task on the owner thread.
  using Post = std::function<void(std::function<void()>)>;

  // Repairs and opens the log; a gap record names what a crash left open.
  static StatusOr<std::unique_ptr<AuditLog>> Open(AuditLogOptions options, AuditObserver observer,
                                                  Post post, const Clock* clock);
  ~AuditLog() override;  // as Close

  void Intent(AuditIntent intent, Done done) override;
  void Outcome(AuditOutcome outcome, Done done) override;
  void Refused(AuditRefusal refusal, Done done) override;
  void Admin(std::string event, std::string detail) override;
  Status Writable() const override { return *writable_; }
  // Names that clients gave to the last requests before this start, in their order; once.
  std::vector<std::string> TakeNames() { return std::exchange(names_, {}); }

  // `done` runs on the owner thread after the answers to all that came before, but of outcomes that
  // cannot be written.
  void Flush(std::function<void()> done);
  // Writes what is queued, seals and closes the log, ends the thread. Answers may still be posted.
  void Close();

 private:
  enum class Kind { kIntent, kOutcome, kOther, kFlush };
  struct Item {
    Kind kind = Kind::kOther;
    std::function<StatusOr<nlohmann::json>()> make;  // on the writer thread
    std::string phase;
    Done done;         // empty: answered already, or nobody waits
    MonoTime give_up;  // of an outcome: then it is answered with an error
    nlohmann::json made;
  };
  struct Answer {
    Done done;
    StatusOr<Receipt> receipt;
  };

  AuditLog(AuditLogOptions options, AuditObserver observer, Post post, const Clock* clock,
           std::unique_ptr<AuditStore> store);
  void Push(Item item);
  void Run();
  void WriteBatch(std::vector<Item> batch);
  void WriteInTurn(std::vector<Item> items);
  std::vector<Item> MakeRecords(std::vector<Item> batch);
  Status TryWrite(std::vector<Item>* items);
  void OnFailure(const Status& status, std::vector<Item> items);
  void AnswerWritten(uint64_t first_seq, std::vector<Item>* items);
  void GiveUpWaiting();
  void DoTimed();
  void Drop(uint64_t records);
  void TellWritable();
  void Send();
  ContentPolicy Policy(const std::string& tenant, TenantKey* key);

  const AuditLogOptions options_;
  const AuditObserver observer_;
  const Post post_;
  const Clock* const clock_;
  std::vector<std::string> names_;
  std::unique_ptr<AuditStore> store_;  // from here on of the writer thread, but queue_
  TenantKeys tenant_keys_;
  BoundedQueue<Item> queue_;
  std::deque<Item> kept_;  // not written yet because of an error
  std::vector<Answer> answers_, flushed_;
  uint64_t dropped_ = 0;  // since the last gap record
  MonoTime next_sync_, next_checkpoint_;
  bool failing_ = false;
  std::string why_;  // it failed last
  MonoTime failed_;  // when it last did
  bool told_writable_ = true;
  const std::shared_ptr<Status> writable_ = std::make_shared<Status>();  // of the owner thread
  std::thread thread_;
};

}  // namespace choir
