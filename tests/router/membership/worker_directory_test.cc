#include "router/membership/worker_directory.h"

#include <gtest/gtest.h>

#include "router/membership/discovery.h"

namespace choir {
namespace {

using Addresses = std::vector<std::string>;

// A DNS whose answers a test sets, and what the directory made of them.
class WorkerDirectoryTest : public ::testing::Test {
 protected:
  void Answer(const std::string& name, StatusOr<Addresses> answer) {
    std::lock_guard lock(mu_);
    answers_.insert_or_assign(name, std::move(answer));
  }
  // Waits until the directory has told just these.
  bool Tells(const Addresses& wanted) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return told_ == wanted; });
  }
  int TimesLookedUp() {
    std::lock_guard lock(mu_);
    return look_ups_;
  }
  void WaitForLookUps(int more) {
    std::unique_lock lock(mu_);
    const int until = look_ups_ + more;
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return look_ups_ >= until; });
  }

  std::mutex mu_;
  std::condition_variable changed_;
  std::map<std::string, StatusOr<Addresses>> answers_;
  std::optional<Addresses> told_;
  int changes_ = 0, look_ups_ = 0;
  WorkerDirectory directory_{
      std::chrono::milliseconds(1),
      [this](const std::string& name, const std::string& port) -> StatusOr<Addresses> {
        std::lock_guard lock(mu_);
        ++look_ups_;
        changed_.notify_all();
        const auto found = answers_.find(name);
        if (found == answers_.end()) return NotFound("{}: no such name", name);
        if (!found->second.ok()) return found->second.status();
        Addresses all;
        for (const std::string& host : *found->second) all.push_back(host + ":" + port);
        return all;
      },
      [this](const Addresses& addresses) {
        std::lock_guard lock(mu_);
        told_ = addresses;
        ++changes_;
        changed_.notify_all();
      }};
};

TEST_F(WorkerDirectoryTest, PassesOnWhatIsNoName) {
  directory_.SetEntries({"b:1", "a:1"});
  EXPECT_TRUE(Tells({"a:1", "b:1"}));
  directory_.SetEntries({});
  EXPECT_TRUE(Tells({}));
  EXPECT_EQ(TimesLookedUp(), 0);
}

TEST_F(WorkerDirectoryTest, FollowsTheAddressesOfANameAsTheyComeAndGo) {
  Answer("w", Addresses{"10.0.0.1"});
  directory_.SetEntries({"dns:w:7100", "a:1"});
  EXPECT_TRUE(Tells({"10.0.0.1:7100", "a:1"}));
  Answer("w", Addresses{"10.0.0.1", "10.0.0.2"});
  EXPECT_TRUE(Tells({"10.0.0.1:7100", "10.0.0.2:7100", "a:1"}));
  Answer("w", Addresses{"10.0.0.2"});
  EXPECT_TRUE(Tells({"10.0.0.2:7100", "a:1"}));
  Answer("w", NotFound("w"));
  EXPECT_TRUE(Tells({"a:1"}));
}

TEST_F(WorkerDirectoryTest, KeepsTheAddressesWhileANameCannotBeLookedUp) {
  Answer("w", Addresses{"10.0.0.1"});
  directory_.SetEntries({"dns:w:7100"});
  EXPECT_TRUE(Tells({"10.0.0.1:7100"}));
  Answer("w", Unavailable("no answer"));
  WaitForLookUps(5);
  EXPECT_TRUE(Tells({"10.0.0.1:7100"}));
  std::lock_guard lock(mu_);
  EXPECT_EQ(changes_, 1);
}

TEST(WorkerAddresses, TakesNamesApartFromAddresses) {
  for (const char* good : {"h:1", "[::1]:70", "unix:/a", "dns:w:7100", "dns:w.ns.svc:1"}) {
    EXPECT_TRUE(CheckWorkerAddress(good).ok()) << good;
  }
  for (const char* bad : {"h", ":1", "h:0", "dns:7100", "dns::7100", "dns:w", "dns:w:0",
                          "dns://w:1", "dns:[::1]:7"}) {
    EXPECT_FALSE(CheckWorkerAddress(bad).ok()) << bad;
  }
  EXPECT_TRUE(IsDnsName("dns:w:7100"));
  EXPECT_FALSE(IsDnsName("w:7100"));
}

TEST(LookUpWorkers, AsksTheSystem) {
  EXPECT_EQ(LookUpWorkers("127.0.0.1", "70").value(), Addresses{"127.0.0.1:70"});
  EXPECT_EQ(LookUpWorkers("::1", "70").value(), Addresses{"[::1]:70"});
  EXPECT_FALSE(LookUpWorkers("no-such-name.invalid", "70").ok());
}

}  // namespace
}  // namespace choir
