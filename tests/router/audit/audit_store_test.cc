#include "router/audit/audit_store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>

#include "common/config/file_watch.h"
#include "router/audit/audit_record.h"
#include "router/audit/audit_verify.h"
#include "tests/router/audit/file_size_limit.h"
#include "tests/support/temp_dir.h"

namespace choir {
namespace {

namespace fs = std::filesystem;

nlohmann::json Record(const char* phase, const std::string& id) {
  return {{"phase", phase}, {"request_id", id}};
}

StatusOr<uint64_t> Append(AuditStore& store, std::vector<nlohmann::json> records) {
  return store.Append(records, true);
}

class AuditStoreTest : public testing::Test {
 protected:
  AuditStoreOptions Options() const {
    return {
        .dir = dir_.path() + "/audit", .keys_dir = dir_.path() + "/keys", .reserve_bytes = 4096};
  }
  std::unique_ptr<AuditStore> Open() { return Open(Options()); }
  static std::unique_ptr<AuditStore> Open(AuditStoreOptions options) {
    auto store = AuditStore::Open(std::move(options), &Clock::Real());
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  AuditVerdict Verify(const std::string& pem = "") const {
    auto verdict = VerifyAudit(Options().dir, pem, {});
    EXPECT_TRUE(verdict.ok()) << verdict.status();
    return verdict.ok() ? *verdict : AuditVerdict{};
  }
  std::string Segment(uint64_t first = 1) const {
    return Options().dir + "/" + AuditSegmentName(first);
  }
  static std::string Read(const std::string& path) { return *ReadSmallFile(path); }
  static void Write(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
  }
  // Three requests, the last one without an outcome; closed or as after a crash.
  void MakeLog(bool close) {
    const auto store = Open();
    ASSERT_EQ(*Append(*store, {Record("intent", "a"), Record("intent", "b")}), 1u);
    ASSERT_EQ(
        *Append(*store, {Record("outcome", "b"), Record("outcome", "a"), Record("refused", "c")}),
        3u);
    ASSERT_TRUE(store->Checkpoint().ok());
    if (!close) {
      ASSERT_TRUE(Append(*store, {Record("intent", "d")}).ok());
      return;
    }
    ASSERT_TRUE(store->Close().ok());
  }
  const TempDir dir_;
};

TEST_F(AuditStoreTest, NamesOfItsLastRequestsAreFoundAgain) {
  {
    const auto store = Open();
    EXPECT_TRUE(store->recovery().names.empty());
    nlohmann::json repeated = Record("intent", "req-0123456789abcdef01234567");  // made by a router
    repeated["client_request_id"] = "b";
    repeated["params"] = {{"stop", {"\"request_id\":\"none\""}}};
    nlohmann::json nobodys = repeated;  // anybody may give a name
    nobodys["phase"] = "refused";
    nobodys["request_id"] = "old";  // as it was once
    nobodys["client_request_id"] = "d";
    nobodys["tenant"] = "";
    ASSERT_TRUE(Append(*store, {Record("intent", "a"), repeated, nobodys}).ok());
    ASSERT_TRUE(store->Close().ok());
  }
  {
    const auto store = Open();  // another segment
    ASSERT_TRUE(Append(*store, {Record("refused", "c")}).ok());
  }
  const auto store = Open();
  EXPECT_EQ(store->TakeNames(), (std::vector<std::string>{"a", "b", "old", "c"}));
  EXPECT_TRUE(store->recovery().names.empty());
}

TEST_F(AuditStoreTest, WhatIsReadForItsNamesOnlyMayBeGone) {
  AuditStoreOptions options = Options();
  options.segment_bytes = 1;
  {
    const auto store = Open(options);
    for (const char* name : {"a", "b", "c", "d"}) {
      ASSERT_TRUE(Append(*store, {Record("intent", name)}).ok());
      ASSERT_TRUE(store->RotateIfDue().ok());
    }
  }
  fs::remove(Segment(3));
  fs::create_symlink(dir_.path() + "/nothing", Segment(3));
  const auto store = Open(options);
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(store->recovery().names, (std::vector<std::string>{"a", "c", "d"}));
}

TEST_F(AuditStoreTest, AnOnlySegmentThatIsGoneOrEmptiedIsNamed) {
  MakeLog(true);
  for (const char* why : {"without a whole record", "missing"}) {
    why == std::string("missing") ? (void)fs::remove(Segment()) : Write(Segment(), "");
    const AuditVerdict verdict = Verify();
    EXPECT_FALSE(verdict.intact);
    EXPECT_EQ(verdict.bad_file, Segment());
    EXPECT_NE(verdict.why.find(why), std::string::npos) << verdict.why;
  }
}

TEST_F(AuditStoreTest, AClosedLogIsIntactAndGoesOnAfterARestart) {
  MakeLog(true);
  AuditVerdict verdict = Verify();
  EXPECT_TRUE(verdict.intact) << verdict.why;
  EXPECT_TRUE(verdict.closed);
  EXPECT_EQ(verdict.records, 7u);  // and two checkpoints
  EXPECT_EQ(verdict.signed_seq, 7u);
  EXPECT_TRUE(verdict.open.empty());
  const std::string log = verdict.log;
  const auto store = Open();
  EXPECT_TRUE(store->recovery().clean);
  EXPECT_EQ(store->log(), log);
  EXPECT_EQ(*Append(*store, {Record("refused", "e")}), 8u);
  verdict = Verify();
  EXPECT_TRUE(verdict.intact) << verdict.why;
  EXPECT_FALSE(verdict.closed);
  EXPECT_EQ(verdict.segments, 2u);
  EXPECT_EQ(verdict.log, log);
}

TEST_F(AuditStoreTest, ACrashLeavesWhatWasWrittenAndNamesWhatIsOpen) {
  MakeLog(false);
  EXPECT_EQ(Verify().open, std::set<std::string>{"d"});
  const auto store = Open();
  EXPECT_FALSE(store->recovery().clean);
  EXPECT_EQ(store->recovery().open, std::vector<std::string>{"d"});
  ASSERT_TRUE(Append(*store, {GapRecord(store->recovery().open, 0, 0, "test")}).ok());
  EXPECT_TRUE(Verify().intact) << Verify().why;
  EXPECT_TRUE(Verify().open.empty());
}

TEST_F(AuditStoreTest, ATornTailIsRemovedAtAnyLength) {
  MakeLog(false);
  const std::string whole = Read(Segment());
  const size_t last = whole.rfind('\n', whole.size() - 2) + 1;
  for (size_t size = last + 1; size < whole.size(); size += 37) {
    Write(Segment(), whole.substr(0, size));
    EXPECT_TRUE(Verify().intact) << Verify().why;
    EXPECT_EQ(Verify().torn_bytes, size - last);
    const auto store = Open();
    ASSERT_NE(store, nullptr);
    EXPECT_EQ(store->recovery().torn_bytes, size - last);
    EXPECT_TRUE(store->recovery().open.empty());  // the intent of d was not whole
    EXPECT_EQ(Read(Segment()).size(), last);
  }
}

TEST_F(AuditStoreTest, EveryChangedByteIsFound) {
  MakeLog(true);
  const std::string whole = Read(Segment());
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] = changed[i] == '1' ? '2' : '1';
    Write(Segment(), changed);
    const AuditVerdict verdict = Verify();
    ASSERT_FALSE(verdict.intact) << "byte " << i;
    const auto line = static_cast<uint64_t>(
        std::count(whole.begin(), whole.begin() + static_cast<long>(i), '\n'));
    // A record's own line, or the next, whose chain it broke (its line end).
    EXPECT_EQ(verdict.bad_seq, line + 1) << "byte " << i << ": " << verdict.why;
  }
}

TEST_F(AuditStoreTest, LinesCutSwappedDoubledOrAddedAreFound) {
  MakeLog(true);
  const std::string whole = Read(Segment());
  std::vector<std::string> lines;
  for (size_t at = 0; at < whole.size();) {
    const size_t end = whole.find('\n', at) + 1;
    lines.push_back(whole.substr(at, end - at));
    at = end;
  }
  const auto broken = [&](const std::vector<std::string>& changed) {
    std::string text;
    for (const std::string& line : changed) text += line;
    Write(Segment(), text);
    const AuditVerdict verdict = Verify();
    EXPECT_FALSE(verdict.why.empty() && !verdict.intact);
    return !verdict.intact;
  };
  for (size_t i = 0; i < lines.size(); ++i) {
    auto without = lines, doubled = lines;
    without.erase(without.begin() + static_cast<long>(i));
    doubled.insert(doubled.begin() + static_cast<long>(i), lines[i]);
    EXPECT_TRUE(broken(without)) << "without " << i;
    EXPECT_TRUE(broken(doubled)) << "doubled " << i;
    EXPECT_TRUE(broken({lines.begin(), lines.begin() + static_cast<long>(i)})) << "cut at " << i;
    if (i + 1 == lines.size()) continue;
    auto swapped = lines;
    std::swap(swapped[i], swapped[i + 1]);
    EXPECT_TRUE(broken(swapped)) << "swapped " << i;
  }
  auto added = lines;
  added.push_back("{}\n");
  EXPECT_TRUE(broken(added));
  Write(Segment(), whole);
  EXPECT_TRUE(Verify().intact);
  fs::remove(Options().dir + "/head.json");
  EXPECT_FALSE(Verify().intact);
}

TEST_F(AuditStoreTest, ALogRewrittenWithAnotherKeyIsFoundByTheKeyKeptApart) {
  MakeLog(true);
  const std::string pem = Read(Options().dir + "/public_key.pem");
  EXPECT_TRUE(Verify(pem).intact);
  fs::remove_all(Options().dir);
  fs::remove_all(Options().keys_dir);
  MakeLog(true);  // a log that is right in itself
  EXPECT_TRUE(Verify().intact);
  EXPECT_FALSE(Verify(pem).intact);
}

TEST_F(AuditStoreTest, AChangedLogIsNotGoneOnWith) {
  MakeLog(true);
  const std::string whole = Read(Segment());
  Write(Segment(), whole.substr(0, whole.rfind('\n', whole.size() - 2) + 1));
  const auto cut = AuditStore::Open(Options(), &Clock::Real());
  EXPECT_NE(cut.status().message().find("evidence"), absl::string_view::npos) << cut.status();
  Write(Segment(), whole);
  EXPECT_TRUE(AuditStore::Open(Options(), &Clock::Real()).ok());
}

TEST_F(AuditStoreTest, SegmentsAreSealedBySizeAndOneThatIsGoneIsFound) {
  AuditStoreOptions options = Options();
  options.segment_bytes = 1;
  {
    const auto store = Open(options);
    for (int i = 0; i < 4; ++i) {
      ASSERT_TRUE(Append(*store, {Record("intent", std::to_string(i))}).ok());
      ASSERT_TRUE(store->RotateIfDue().ok());
    }
    ASSERT_TRUE(Append(*store, {Record("outcome", "2")}).ok());
  }
  AuditVerdict verdict = Verify();
  EXPECT_TRUE(verdict.intact) << verdict.why;
  EXPECT_EQ(verdict.segments, 5u);
  // What is open is known from the last two segments alone.
  EXPECT_EQ(Open(options)->recovery().open, (std::vector<std::string>{"0", "1", "3"}));
  fs::remove(Segment(3));
  verdict = Verify();
  EXPECT_FALSE(verdict.intact);
  EXPECT_NE(verdict.why.find(AuditSegmentName(3)), std::string::npos) << verdict.why;
}

TEST_F(AuditStoreTest, ADirectoryHasOneWriter) {
  const auto store = Open();
  const auto second = AuditStore::Open(Options(), &Clock::Real());
  EXPECT_NE(second.status().message().find("another router"), absl::string_view::npos);
}

TEST_F(AuditStoreTest, AFailedWriteLeavesFileAndChainAsBefore) {
  const auto store = Open();
  ASSERT_TRUE(Append(*store, {Record("intent", "a")}).ok());
  const std::string before = Read(Segment());
  {
    const FileSizeLimit limit(before.size() + 100);
    EXPECT_FALSE(Append(*store, {Record("outcome", "a")}).ok());
  }
  EXPECT_EQ(Read(Segment()), before);
  EXPECT_EQ(*Append(*store, {Record("outcome", "a")}), 2u);
  ASSERT_TRUE(store->Close().ok());
  EXPECT_TRUE(Verify().intact) << Verify().why;
}

}  // namespace
}  // namespace choir
