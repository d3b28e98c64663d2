#include "router/identity/keys.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "router/identity/identity.h"

namespace choir {
namespace {

const WallTime kNow = Clock::Real().Wall();

class KeysTest : public testing::Test {
 protected:
  KeysTest() {
    std::string name = (std::filesystem::temp_directory_path() / "choir-keys-XXXXXX").string();
    dir_ = mkdtemp(name.data());
    path_ = dir_ + "/keys.yaml";
  }
  ~KeysTest() override { std::filesystem::remove_all(dir_); }

  std::string dir_;
  std::string path_;
};

TEST_F(KeysTest, AKeyIsKnownByItsSecretOnly) {
  const NewKey key = MakeKey("acme", Clock::Real());
  EXPECT_EQ(key.secret.size(), 3u + 43u);
  const KeySet set({key.record});
  ASSERT_NE(set.Find(key.secret, kNow), nullptr);
  EXPECT_EQ(set.Find(key.secret, kNow)->tenant, "acme");
  EXPECT_EQ(set.Find(key.secret + "x", kNow), nullptr);
  EXPECT_EQ(set.Find(ToHex(key.record.hash), kNow), nullptr);
  EXPECT_EQ(set.Find("", kNow), nullptr);
}

TEST_F(KeysTest, ARevokedKeyIsUnknown) {
  NewKey key = MakeKey("acme", Clock::Real());
  key.record.revoked = "2026-01-01T00:00:00Z";
  EXPECT_EQ(KeySet({key.record}).Find(key.secret, kNow), nullptr);
}

TEST_F(KeysTest, AKeyEndsAtItsExpiryAndNotBefore) {
  NewKey key = MakeKey("acme", Clock::Real());
  SetExpiry(kNow + std::chrono::hours(1), &key.record);
  SetExpiry(kNow + std::chrono::hours(2), &key.record);  // never later than it is
  const KeySet set({key.record});
  const WallTime end = key.record.expires_at;
  EXPECT_LE(end, kNow + std::chrono::hours(1));
  EXPECT_NE(set.Find(key.secret, end - std::chrono::nanoseconds(1)), nullptr);
  EXPECT_EQ(set.Find(key.secret, end), nullptr);
  ASSERT_TRUE(SaveKeys(path_, {key.record}).ok());
  const auto back = LoadKeys(path_);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ((*back)[0].expires_at, end) << "as the file has it";
  EXPECT_EQ(StateOf((*back)[0], end), KeyState::kExpired);
  Revoke(kNow, &key.record);
  EXPECT_EQ(StateOf(key.record, end), KeyState::kRevoked);
}

TEST_F(KeysTest, TheFileHoldsNoSecretAndIsPrivate) {
  const NewKey key = MakeKey("acme", Clock::Real());
  ASSERT_TRUE(SaveKeys(path_, {key.record}).ok());
  std::ifstream file(path_);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(text.find(key.secret.substr(3)), std::string::npos);
  struct stat st = {};
  ASSERT_EQ(stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  const auto back = LoadKeys(path_);
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ(back->size(), 1u);
  EXPECT_EQ((*back)[0].id, key.record.id);
  EXPECT_EQ((*back)[0].hash, key.record.hash);
  EXPECT_EQ((*back)[0].created, key.record.created);
}

TEST_F(KeysTest, NamesWhatIsWrongInTheFile) {
  const auto error = [](const std::string& text) {
    const auto keys = ParseKeys(text, "k.yaml");
    return keys.ok() ? std::string("no error") : MessageOf(keys.status());
  };
  EXPECT_NE(error("keys: [{id: a, hash: zz, tenant: t}]").find("keys[0]: hash"), std::string::npos);
  EXPECT_NE(error("keys: [{id: a, tenant: t}]").find("hash"), std::string::npos);
  EXPECT_NE(error("keys: [{id: a, hash: " + std::string(64, 'a') + ", tenant: t, expires: soon}]")
                .find("2026-02-03T04:05:06Z"),
            std::string::npos);
  EXPECT_NE(error("keyz: []").find("keyz"), std::string::npos);
  EXPECT_NE(error("keys: {").find("k.yaml"), std::string::npos);
  EXPECT_NE(error("[1]").find("map"), std::string::npos);
  const std::string hash(64, 'a');
  EXPECT_NE(error("keys: [{id: a, hash: " + hash + ", tenant: 'a b'}]").find("a b"),
            std::string::npos);
  EXPECT_NE(error("keys: [{id: a, hash: " + hash + ", tenant: t}, {id: a, hash: " + hash +
                  ", tenant: t}]")
                .find("twice"),
            std::string::npos);
  EXPECT_NE(error("").find("'keys' is needed"), std::string::npos);
  EXPECT_EQ(error("keys:"), "no error");
}

TEST_F(KeysTest, TimesThatCannotBeCountedAreRefused) {
  EXPECT_TRUE(ParseKeyTime("2261-12-31T23:59:59Z").ok());
  EXPECT_GT(*ParseKeyTime("2261-12-31T23:59:59Z"), kNow);
  EXPECT_TRUE(ParseKeyTime("1970-01-01T00:00:00Z").ok());
  for (const char* text : {"2262-01-01T00:00:00Z", "2999-01-02T03:04:05Z", "9999-12-31T23:59:59Z",
                           "1969-12-31T23:59:59Z", "2026-02-03", "2026-02-03T04:05:06Zx", ""}) {
    EXPECT_FALSE(ParseKeyTime(text).ok()) << text;
  }
}

TEST_F(KeysTest, RightsAreReadAsTheyWereWritten) {
  NewKey key = MakeKey("acme", Clock::Real());
  Rights& rights = key.record.rights;
  ASSERT_TRUE(AddModel("my: moe", &rights).ok());
  ASSERT_TRUE(AddModel("other", &rights).ok());
  ASSERT_TRUE(AddNetwork("10.0.0.0/8", &rights).ok());
  ASSERT_TRUE(AddNetwork("2001:db8::/32", &rights).ok());
  ASSERT_TRUE(SetClass("bulk", &rights).ok());
  ASSERT_TRUE(SetLimitRule("concurrency", "2", &rights.limits).ok());
  ASSERT_TRUE(SetLimitRule("requests_per_second", "0.5", &rights.limits).ok());
  ASSERT_TRUE(CompleteLimitRules(&rights.limits).ok());
  const NewKey plain = MakeKey("acme", Clock::Real());
  ASSERT_TRUE(SaveKeys(path_, {key.record, plain.record}).ok());
  const auto back = LoadKeys(path_);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ((*back)[0].rights, rights);
  EXPECT_EQ((*back)[1].rights, Rights());
  EXPECT_EQ(RightsText(rights),
            "class=bulk models=my: moe,other networks=10.0.0.0/8,2001:db8::/32 "
            "requests_per_second=0.5 burst=1 concurrency=2");
}

TEST_F(KeysTest, RightsThatAreNoneAreNamed) {
  const auto error = [](const std::string& field) {
    const auto keys = ParseKeys(
        "keys: [{id: a, hash: " + std::string(64, 'a') + ", tenant: t, " + field + "}]", "k.yaml");
    return keys.ok() ? std::string("no error") : MessageOf(keys.status());
  };
  EXPECT_EQ(error("models: [a]"), "no error");
  EXPECT_NE(error("models: []").find("at least one"), std::string::npos);
  EXPECT_NE(error("models: a").find("models: a list"), std::string::npos);
  EXPECT_NE(error("models: ['']").find("1 to 512"), std::string::npos);
  EXPECT_NE(error("models: [[a]]").find("models"), std::string::npos);
  EXPECT_NE(error("networks: [10.0.0.1/8]").find("beyond the prefix"), std::string::npos);
  EXPECT_NE(error("networks: []").find("at least one"), std::string::npos);
  EXPECT_NE(error("class: fast").find("interactive, default, bulk, system"), std::string::npos);
  EXPECT_NE(error("class: [bulk]").find("class"), std::string::npos);
  EXPECT_NE(error("limits: {burts: 1}").find("burst"), std::string::npos);
  EXPECT_NE(error("limits: {burst: 1}").find("requests_per_second"), std::string::npos);
  EXPECT_NE(error("limits: [1]").find("map"), std::string::npos);
  EXPECT_NE(error("model: a").find("models"), std::string::npos);
}

TEST_F(KeysTest, ThoseInForceWithABudgetAreNamed) {
  const WallTime now = Clock::Real().Wall();
  std::vector<KeyRecord> keys(14);
  for (size_t i = 0; i < keys.size(); ++i) keys[i].id = fmt::format("k{}", i);
  EXPECT_EQ(KeysWithBudget(keys, now), "");
  keys[3].rights.limits.budget = keys[4].rights.limits.budget = 5;
  Revoke(now, &keys[4]);
  EXPECT_EQ(KeysWithBudget(keys, now), "k3");
  for (KeyRecord& key : keys) key.rights.limits.budget = 5;
  EXPECT_EQ(KeysWithBudget(keys, now), "k0, k1, k2, k3, k5, k6, k7, k8, k9, k10 and 3 more");
}

TEST_F(KeysTest, TheRouterFollowsTheFile) {
  const NewKey first = MakeKey("acme", Clock::Real());
  const NewKey second = MakeKey("zeta", Clock::Real());
  ASSERT_TRUE(SaveKeys(path_, {first.record}).ok());
  std::mutex mu;
  std::condition_variable changed;
  std::vector<bool> readings;
  auto identity =
      Identity::Open({.keys_file = path_}, [&](const std::string&, const Status& status) {
        std::lock_guard lock(mu);
        readings.push_back(status.ok());
        changed.notify_all();
      });
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_TRUE((*identity)->Authenticate(first.secret));
  EXPECT_FALSE((*identity)->Authenticate(second.secret));
  const auto wait_for = [&](size_t n) {
    std::unique_lock lock(mu);
    return changed.wait_for(lock, std::chrono::seconds(10), [&] { return readings.size() >= n; });
  };
  ASSERT_TRUE(SaveKeys(path_, {second.record}).ok());
  ASSERT_TRUE(wait_for(1));
  EXPECT_FALSE((*identity)->Authenticate(first.secret));
  EXPECT_EQ((*identity)->Authenticate(second.secret)->tenant, "zeta");
  std::ofstream(path_) << "keys: [broken";
  ASSERT_TRUE(wait_for(2));
  EXPECT_TRUE((*identity)->Authenticate(second.secret)) << "the last good keys stay in force";
}

TEST_F(KeysTest, AMissingFileIsAnErrorAtStart) {
  EXPECT_FALSE(Identity::Open({.keys_file = path_}, {}).ok());
}

}  // namespace
}  // namespace choir
