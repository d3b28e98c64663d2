#include "router/identity/keys.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "router/identity/identity.h"

namespace choir {
namespace {

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
  ASSERT_NE(set.Find(key.secret), nullptr);
  EXPECT_EQ(set.Find(key.secret)->tenant, "acme");
  EXPECT_EQ(set.Find(key.secret + "x"), nullptr);
  EXPECT_EQ(set.Find(ToHex(key.record.hash)), nullptr);
  EXPECT_EQ(set.Find(""), nullptr);
}

TEST_F(KeysTest, ARevokedKeyIsUnknown) {
  NewKey key = MakeKey("acme", Clock::Real());
  key.record.revoked = "2026-01-01T00:00:00Z";
  EXPECT_EQ(KeySet({key.record}).Find(key.secret), nullptr);
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

TEST_F(KeysTest, TheRouterFollowsTheFile) {
  const NewKey first = MakeKey("acme", Clock::Real());
  const NewKey second = MakeKey("zeta", Clock::Real());
  ASSERT_TRUE(SaveKeys(path_, {first.record}).ok());
  std::mutex mu;
  std::condition_variable changed;
  std::vector<bool> readings;
  auto identity = Identity::Open(path_, [&](const Status& status) {
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

TEST_F(KeysTest, AMissingFileIsAnErrorAtStart) { EXPECT_FALSE(Identity::Open(path_, {}).ok()); }

}  // namespace
}  // namespace choir
