#include "router/audit/audit_log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>

#include "router/audit/audit_verify.h"
#include "router/audit/token_bytes.h"
#include "tests/router/audit/file_size_limit.h"
#include "tests/support/temp_dir.h"

namespace choir {
namespace {

// The owner thread's side: answers as they come.
class Owner {
 public:
  AuditLog::Post post() {
    return [this](std::function<void()> task) {
      std::lock_guard lock(mu_);
      task();
      changed_.notify_all();
    };
  }
  Audit::Done Keep(const std::string& name) {
    return
        [this, name](StatusOr<std::string> receipt) { answers_.emplace(name, std::move(receipt)); };
  }
  // Until what the log says of itself satisfies the condition.
  bool WaitWritable(const AuditLog& log, bool writable) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, std::chrono::seconds(20),
                             [&] { return log.Writable().ok() == writable; });
  }
  StatusOr<std::string> Wait(const std::string& name) {
    std::unique_lock lock(mu_);
    if (!changed_.wait_for(lock, std::chrono::seconds(20),
                           [&] { return answers_.contains(name); })) {
      return DeadlineExceeded("{} was not answered", name);
    }
    return answers_.at(name);
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  std::map<std::string, StatusOr<std::string>> answers_;
};

class AuditLogTest : public testing::TestWithParam<AuditClass> {
 protected:
  std::unique_ptr<AuditLog> Open(bool capture = false) {
    AuditLogOptions options;
    options.store = {
        .dir = dir_.path() + "/audit", .keys_dir = dir_.path() + "/keys", .reserve_bytes = 4096};
    options.durability = GetParam();
    options.capture_content = capture;
    options.sync_interval = std::chrono::milliseconds(5);
    options.outcome_wait = std::chrono::milliseconds(50);
    options.settle_time = std::chrono::milliseconds(50);
    AuditObserver observer;
    observer.dropped = [this](uint64_t n) { dropped_ += n; };
    auto log = AuditLog::Open(options, observer, owner_.post(), &Clock::Real());
    EXPECT_TRUE(log.ok()) << log.status();
    return log.ok() ? *std::move(log) : nullptr;
  }
  static AuditRequest Request(const std::string& id) {
    return {.request_id = id,
            .trace_parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            .tenant = "acme",
            .principal = "k1",
            .auth = "api_key",
            .key_fp = "k1",
            .source = "10.0.0.1",
            .route = "/v1/chat/completions",
            .model = "m",
            .numerics_id = "num"};
  }
  std::vector<nlohmann::json> Records() {
    std::vector<nlohmann::json> records;
    verdict_ = *VerifyAudit(dir_.path() + "/audit", "",
                            [&](const nlohmann::json& r) { records.push_back(r); });
    EXPECT_TRUE(verdict_.intact) << verdict_.why;
    return records;
  }
  const TempDir dir_;
  Owner owner_;
  std::atomic<uint64_t> dropped_ = 0;
  AuditVerdict verdict_;
};

TEST_P(AuditLogTest, ARequestIsOnRecordBeforeItsAnswer) {
  const auto log = Open();
  AuditIntent intent{
      .request = Request("req-1"), .prompt = {1, 2, 3}, .limit_rule = "max_requests"};
  intent.sampling.seed = uint64_t{1} << 60;
  log->Intent(intent, owner_.Keep("intent"));
  const auto receipt = owner_.Wait("intent");
  ASSERT_TRUE(receipt.ok()) << receipt.status();
  AuditOutcome outcome{.request = Request("req-1"),
                       .finish = "stop",
                       .workers = {{"g0r1", 7, 0, 0}},
                       .outputs = {{5, 6}},
                       .ttft_ms = 12.34567,
                       .duration_ms = 100};
  outcome.usage = {.prompt_tokens = 3, .output_tokens = 2};
  log->Outcome(outcome, owner_.Keep("outcome"));
  ASSERT_TRUE(owner_.Wait("outcome").ok());
  log->Refused({.request = {.request_id = "req-2"}, .status = 401, .code = "invalid_api_key"},
               owner_.Keep("refused"));
  ASSERT_TRUE(owner_.Wait("refused").ok());
  log->Close();
  const auto records = Records();
  ASSERT_EQ(records.size(), 4u);
  EXPECT_EQ(*receipt, records[0]["log"].get<std::string>() + ":1");
  EXPECT_EQ(records[0]["params"]["seed"], "1152921504606846976");  // beyond 2^53
  EXPECT_EQ(records[0]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(records[1]["ttft_ms"], 12.346);
  EXPECT_EQ(records[1]["workers"][0]["worker"], "g0r1");
  EXPECT_EQ(records[2]["status"], 401);
  EXPECT_EQ(records[3]["phase"], "checkpoint");
  EXPECT_TRUE(verdict_.closed);
}

TEST_P(AuditLogTest, DigestsAreOfTheTenantsKeyAndContentIsSealed) {
  const auto log = Open(/*capture=*/true);
  for (const char* tenant : {"acme", "other"}) {
    AuditIntent intent{.request = Request(tenant), .prompt = {1, 2, 3}};
    intent.request.tenant = tenant;
    log->Intent(intent, owner_.Keep(tenant));
    ASSERT_TRUE(owner_.Wait(tenant).ok());
  }
  log->Close();
  const auto records = Records();
  EXPECT_NE(records[0]["prompt_digest"], records[1]["prompt_digest"]);
  const TenantKey key = *TenantKeys(dir_.path() + "/keys").Find("acme");
  const std::string bytes = TokenBytes(std::vector<int32_t>{1, 2, 3});
  EXPECT_EQ(records[0]["prompt_digest"], KeyedDigest(key, bytes));
  const auto opened = OpenContent(key, "acme/prompt_digest", records[0]["content"]["sealed"]);
  EXPECT_EQ(IdsOfTokenBytes(*opened), (std::vector<int32_t>{1, 2, 3}));
}

TEST_P(AuditLogTest, ACrashIsFollowedByAGapThatNamesWhatWasOpen) {
  const pid_t child = fork();
  if (child == 0) {
    const auto log = Open();
    for (const char* id : {"a", "b"}) {
      log->Intent({.request = Request(id), .prompt = {1}}, owner_.Keep(id));
      if (!owner_.Wait(id).ok()) _exit(1);
    }
    log->Outcome({.request = Request("a")}, owner_.Keep("out"));
    _exit(owner_.Wait("out").ok() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  Open()->Close();
  const auto records = Records();
  ASSERT_EQ(records.size(), 5u);
  EXPECT_EQ(records[3]["phase"], "gap");
  EXPECT_EQ(records[3]["open"], nlohmann::json({"b"}));
  EXPECT_TRUE(verdict_.open.empty());
}

TEST_P(AuditLogTest, WhatCannotBeWrittenIsRefusedOrCountedAndOutcomesFollowLater) {
  const auto log = Open();
  log->Intent({.request = Request("a"), .prompt = {1}}, owner_.Keep("a"));
  ASSERT_TRUE(owner_.Wait("a").ok());
  std::optional<FileSizeLimit> full(1);
  log->Intent({.request = Request("b"), .prompt = {1}}, owner_.Keep("b"));
  log->Outcome({.request = Request("a")}, owner_.Keep("out"));
  const auto intent = owner_.Wait("b");
  const auto outcome = owner_.Wait("out");
  full.reset();
  const bool best_effort = GetParam() == AuditClass::kBestEffort;
  EXPECT_EQ(intent.ok(), best_effort) << intent.status();
  EXPECT_EQ(outcome.ok(), best_effort) << outcome.status();
  EXPECT_EQ(dropped_.load() > 0, best_effort);
  // The disk has room again: service goes on, and what was kept is written.
  log->Intent({.request = Request("c"), .prompt = {1}}, owner_.Keep("c"));
  ASSERT_TRUE(owner_.Wait("c").ok());
  log->Close();
  std::map<std::string, int> phases;
  for (const auto& r : Records()) {
    ++phases[r["phase"]];
    if (r["phase"] != "outcome") continue;
    EXPECT_EQ(r["status"], 503) << "as its client was told when it had waited for too long";
    EXPECT_EQ(r["code"], "audit");
  }
  EXPECT_EQ(phases["intent"], 2);
  EXPECT_EQ(phases["outcome"], best_effort ? 0 : 1);
  EXPECT_EQ(phases["gap"], best_effort ? 1 : 0);
}

// A disk of its own of 4 MiB at the log's directory.
class SmallDisk {
 public:
  explicit SmallDisk(std::string path) : path_(std::move(path)) {
    std::filesystem::create_directories(path_);
    mounted_ = mount("tmpfs", path_.c_str(), "tmpfs", 0, "size=4m") == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  bool MakeReadOnly() const {
    return mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, "size=4m") == 0;
  }
  void Fill() const {
    const int fd = open(filler().c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    const std::string page(4096, 'x');
    while (write(fd, page.data(), page.size()) > 0) continue;
    close(fd);
  }
  void Free() const { unlink(filler().c_str()); }

 private:
  std::string filler() const { return path_ + "/filler"; }
  const std::string path_;
  bool mounted_ = false;
};

TEST_P(AuditLogTest, OnAFullDiskTheReserveIsForTheEndsOfWhatRunsHoweverManyAreRefused) {
  const SmallDisk disk(dir_.path() + "/audit");
  if (!disk.mounted()) GTEST_SKIP() << "only root may mount a disk";
  const auto log = Open();
  const std::vector<std::string> running = {"a", "b", "c", "d"};
  for (const std::string& name : running) {
    log->Intent({.request = Request(name), .prompt = {1}}, owner_.Keep(name));
    ASSERT_TRUE(owner_.Wait(name).ok());
  }
  disk.Fill();
  constexpr int kRefused = 2000;  // many times the reserve
  for (int i = 0; i < kRefused; ++i) {
    const std::string name = "refused" + std::to_string(i);
    log->Refused({.request = Request(name), .status = 401, .code = "invalid_api_key"},
                 owner_.Keep(name));
  }
  const bool best_effort = GetParam() == AuditClass::kBestEffort;
  (void)owner_.Wait("refused" + std::to_string(kRefused - 1));
  for (const std::string& name : running) {
    log->Outcome({.request = Request(name)}, owner_.Keep("end of " + name));
  }
  for (const std::string& name : running) {
    const auto receipt = owner_.Wait("end of " + name);
    ASSERT_TRUE(receipt.ok()) << receipt.status();
    EXPECT_NE(*receipt, "");
  }
  log->Intent({.request = Request("e"), .prompt = {1}}, owner_.Keep("e"));
  EXPECT_EQ(owner_.Wait("e").ok(), best_effort);
  disk.Free();
  log->Intent({.request = Request("f"), .prompt = {1}}, owner_.Keep("f"));
  EXPECT_TRUE(owner_.Wait("f").ok());
  log->Close();
  std::map<std::string, int> phases;
  for (const auto& r : Records()) {
    ++phases[r["phase"]];
    if (r["phase"] == "outcome") EXPECT_EQ(r["status"], 200);
  }
  EXPECT_EQ(phases["outcome"], 4);
  const int served = best_effort ? 6 : 5;  // a to f; "e" was refused
  EXPECT_EQ(phases["refused"] + phases["intent"] + static_cast<int>(dropped_), kRefused + served);
  EXPECT_EQ(dropped_ > 0, best_effort);
}

TEST_P(AuditLogTest, AReadOnlyDiskIsNamedAtTheStart) {
  const SmallDisk disk(dir_.path() + "/audit");
  if (!disk.mounted() || !disk.MakeReadOnly()) GTEST_SKIP() << "only root may mount a disk";
  const auto log =
      AuditLog::Open({.store = {.dir = dir_.path() + "/audit", .keys_dir = dir_.path() + "/keys"}},
                     {}, owner_.post(), &Clock::Real());
  ASSERT_FALSE(log.ok());
  EXPECT_NE(log.status().message().find(dir_.path() + "/audit/lock"), std::string::npos)
      << log.status();
  EXPECT_NE(log.status().message().find("Read-only file system"), std::string::npos);
}

TEST_P(AuditLogTest, ItSaysWhileItRefusesAndFindsByItselfThatItIsOver) {
  const auto log = Open();
  log->Intent({.request = Request("first"), .prompt = {1}}, owner_.Keep("first"));
  ASSERT_TRUE(owner_.Wait("first").ok());  // its tenant has a key
  EXPECT_TRUE(log->Writable().ok());
  std::optional<FileSizeLimit> full(1);
  log->Intent({.request = Request("a"), .prompt = {1}}, owner_.Keep("a"));
  const bool refused = !owner_.Wait("a").ok();
  const bool said = !refused || owner_.WaitWritable(*log, false);
  const std::string why = MessageOf(log->Writable());
  full.reset();
  EXPECT_EQ(refused, GetParam() != AuditClass::kBestEffort);
  EXPECT_TRUE(said);
  EXPECT_EQ(why.find("File too large") != std::string::npos, refused) << why;
  EXPECT_TRUE(owner_.WaitWritable(*log, true));  // nothing else was asked of it
  log->Close();
  const auto records = Records();
  const auto outages = std::count_if(records.begin(), records.end(), [](const nlohmann::json& r) {
    return r.value("event", "") == "unwritable";
  });
  EXPECT_EQ(outages, refused ? 1 : 0);
}

INSTANTIATE_TEST_SUITE_P(Classes, AuditLogTest,
                         testing::Values(AuditClass::kEnforced, AuditClass::kBounded,
                                         AuditClass::kBestEffort),
                         [](const auto& info) {
                           return info.param == AuditClass::kEnforced  ? "Enforced"
                                  : info.param == AuditClass::kBounded ? "Bounded"
                                                                       : "BestEffort";
                         });

}  // namespace
}  // namespace choir
