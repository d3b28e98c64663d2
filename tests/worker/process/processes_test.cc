// Real worker processes over loopback on a tiny checkpoint: they become ready, serve, lose a rank,
// re-form, drain.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "choir/v1/worker.grpc.pb.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/version.h"

extern char** environ;

namespace choir {
namespace {

using ::testing::HasSubstr;

// A child choir-worker; killed with the object.
class Child {
 public:
  explicit Child(const std::vector<std::string>& flags, const std::string& model = "tiny_glm4_moe",
                 const std::string& listen = "127.0.0.1:0") {
    std::vector<std::string> arguments = {
        CHOIR_WORKER_BINARY, "--model",    CHOIR_SOURCE_DIR "/tests/golden/checkpoints/" + model,
        "--listen",          listen,       "--admin",
        "127.0.0.1:0",       "--kv-bytes", "4MiB",
        "--threads",         "1"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    int out[2], err[2];
    CHOIR_CHECK(pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, err[1], 2);
    CHOIR_CHECK(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    close(err[1]);
    out_ = out[0];
    err_ = err[0];
  }
  ~Child() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      (void)Wait();
    }
    close(out_);
    close(err_);
  }

  void Signal(int signal) const { kill(pid_, signal); }
  int Wait() {
    int state = 0;
    CHOIR_CHECK(waitpid(pid_, &state, 0) == pid_);
    pid_ = -1;
    return WIFEXITED(state) ? WEXITSTATUS(state) : -WTERMSIG(state);
  }
  // "grpc" or "admin" of the listening line.
  std::string Address(const std::string& which) {
    while (listening_.find('\n') == std::string::npos) {
      char c = 0;
      if (read(out_, &c, 1) != 1) return "";
      listening_ += c;
    }
    const size_t begin = listening_.find(which + "=") + which.size() + 1;
    return listening_.substr(begin, listening_.find_first_of(" \n", begin) - begin);
  }
  // Reads the log until it holds `text`; false when the process ends or 30 s pass without it.
  bool Logs(const std::string& text) {
    const MonoTime end = Clock::Real().Now() + std::chrono::seconds(30);
    while (true) {
      const size_t found = log_.find(text, log_read_);
      if (found != std::string::npos) {
        log_read_ = found + text.size();
        return true;
      }
      pollfd waiting{.fd = err_, .events = POLLIN, .revents = 0};
      char chunk[4096];
      const Duration left = end - Clock::Real().Now();
      if (left <= Duration::zero() ||
          poll(&waiting, 1, static_cast<int>(left.count() / 1000000)) <= 0) {
        return false;
      }
      const ssize_t bytes = read(err_, chunk, sizeof chunk);
      if (bytes <= 0) return false;
      log_.append(chunk, static_cast<size_t>(bytes));
    }
  }
  const std::string& log() const { return log_; }

 private:
  pid_t pid_ = -1;
  int out_ = -1, err_ = -1;
  std::string listening_, log_;
  size_t log_read_ = 0;  // what Logs has passed
};

std::unique_ptr<Child> Leader(const std::string& listen = "127.0.0.1:0") {
  return std::make_unique<Child>(std::vector<std::string>{"--ranks", "2", "--rank", "0"},
                                 "tiny_glm4_moe", listen);
}
std::unique_ptr<Child> Follower(Child& leader) {
  return std::make_unique<Child>(
      std::vector<std::string>{"--ranks", "2", "--rank", "1", "--leader", leader.Address("grpc")});
}

// Greedy tokens of a short prompt, asked over gRPC like a router does; "" finishes are none.
std::vector<int32_t> Generate(const std::string& address, int tokens, v1::Finish* finish) {
  auto stub = v1::Worker::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  auto stream = stub->Connect(&context);
  v1::ToWorker message;
  message.mutable_hello()->set_protocol_version(kProtocolVersion);
  message.mutable_hello()->set_router_id("test");
  v1::SubmitSequence* submit = message.add_submits();
  submit->set_id(1);
  for (const int id : {3, 1, 4, 1, 5}) submit->add_token_ids(id);
  submit->set_num_prompt_tokens(5);
  submit->mutable_sampling()->set_max_tokens(static_cast<uint32_t>(tokens));
  submit->mutable_sampling()->set_top_p(1);
  submit->mutable_sampling()->set_num_logprobs(-1);
  (void)stream->Write(message);
  std::vector<int32_t> out;
  v1::FromWorker answer;
  while (stream->Read(&answer)) {
    for (const v1::SequenceUpdate& update : answer.step().updates()) {
      out.insert(out.end(), update.token_ids().begin(), update.token_ids().end());
      *finish = update.finish();
      if (update.finish() != v1::FINISH_NONE) {
        context.TryCancel();
        return out;
      }
    }
  }
  return out;
}

TEST(WorkerProcesses, OneRankServesAndDrains) {
  Child worker({});
  ASSERT_TRUE(worker.Logs("ready in epoch")) << worker.log();
  v1::Finish finish = v1::FINISH_NONE;
  EXPECT_EQ(Generate(worker.Address("grpc"), 6, &finish).size(), 6u);
  EXPECT_EQ(finish, v1::FINISH_LENGTH);
  worker.Signal(SIGTERM);
  EXPECT_EQ(worker.Wait(), 0);
}

TEST(WorkerProcesses, TwoRanksGiveTheTokensOfOneAndComeBackFromTheLossOfEither) {
  v1::Finish finish = v1::FINISH_NONE;
  Child alone({});
  ASSERT_TRUE(alone.Logs("ready in epoch")) << alone.log();
  const std::vector<int32_t> expected = Generate(alone.Address("grpc"), 12, &finish);
  ASSERT_EQ(expected.size(), 12u);

  auto leader = Leader();
  auto follower = Follower(*leader);
  ASSERT_TRUE(leader->Logs("ready in epoch")) << leader->log();
  ASSERT_TRUE(follower->Logs("ready in epoch")) << follower->log();
  EXPECT_EQ(Generate(leader->Address("grpc"), 12, &finish), expected);
  EXPECT_EQ(Generate(follower->Address("grpc"), 12, &finish), expected);

  follower->Signal(SIGKILL);
  EXPECT_EQ(follower->Wait(), -SIGKILL);
  ASSERT_TRUE(leader->Logs("is over")) << leader->log();
  follower = Follower(*leader);
  ASSERT_TRUE(leader->Logs("ready in epoch")) << leader->log();
  ASSERT_TRUE(follower->Logs("ready in epoch")) << follower->log();
  EXPECT_EQ(Generate(follower->Address("grpc"), 12, &finish), expected);

  // The leader is lost: its successor listens on the same port.
  const std::string address = leader->Address("grpc");
  leader->Signal(SIGKILL);
  EXPECT_EQ(leader->Wait(), -SIGKILL);
  leader = Leader(address);
  ASSERT_TRUE(leader->Logs("ready in epoch")) << leader->log();
  ASSERT_TRUE(follower->Logs("ready in epoch")) << follower->log();
  EXPECT_EQ(Generate(address, 12, &finish), expected);
  follower->Signal(SIGTERM);
  leader->Signal(SIGTERM);
  EXPECT_EQ(leader->Wait(), 0);
  EXPECT_EQ(follower->Wait(), 0);
}

TEST(WorkerProcesses, ALossWhileStepsRunGivesSequencesBackAndTheGroupReforms) {
  auto leader = Leader();
  auto follower = Follower(*leader);
  ASSERT_TRUE(leader->Logs("ready in epoch")) << leader->log();
  ASSERT_TRUE(follower->Logs("ready in epoch")) << follower->log();
  v1::Finish finish = v1::FINISH_NONE;
  std::atomic<int> answers{0};
  std::jthread asker([&, address = leader->Address("grpc")] {
    // Always something is running, until the loss hits it.
    while (finish != v1::FINISH_LOST && answers < 10000) {
      (void)Generate(address, 100, &finish);
      ++answers;
      answers.notify_all();
    }
  });
  answers.wait(0);
  follower->Signal(SIGKILL);
  EXPECT_EQ(follower->Wait(), -SIGKILL);
  asker.join();
  EXPECT_EQ(finish, v1::FINISH_LOST);
  follower = Follower(*leader);
  ASSERT_TRUE(leader->Logs("ready in epoch")) << leader->log();
  EXPECT_EQ(Generate(leader->Address("grpc"), 5, &finish).size(), 5u);
}

TEST(WorkerProcesses, AGroupWaitsForARankThatDrainsAndServesAgainWithItsSuccessor) {
  auto leader = Leader();
  auto follower = Follower(*leader);
  ASSERT_TRUE(leader->Logs("ready in epoch")) << leader->log();
  ASSERT_TRUE(follower->Logs("ready in epoch")) << follower->log();
  follower->Signal(SIGTERM);
  EXPECT_EQ(follower->Wait(), 0);
  follower = Follower(*leader);
  ASSERT_TRUE(leader->Logs("ready in epoch")) << leader->log();
  ASSERT_TRUE(follower->Logs("ready in epoch")) << follower->log();
  v1::Finish finish = v1::FINISH_NONE;
  EXPECT_EQ(Generate(leader->Address("grpc"), 3, &finish).size(), 3u);
}

// Waits until a worker tells its routers a reason for not being ready that holds `text`.
std::string ReasonWith(const std::string& address, const std::string& text) {
  auto stub = v1::Worker::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  auto stream = stub->Connect(&context);
  v1::ToWorker message;
  message.mutable_hello()->set_protocol_version(kProtocolVersion);
  message.mutable_hello()->set_router_id("test");
  (void)stream->Write(message);
  v1::FromWorker answer;
  std::string reason;
  while (reason.find(text) == std::string::npos && stream->Read(&answer)) {
    if (answer.has_state()) reason = answer.state().ready() ? "ready" : answer.state().reason();
  }
  context.TryCancel();
  return reason;
}

TEST(WorkerProcesses, AMixedGroupNeverGetsReadyAndSaysWhichRankDiffersInWhat) {
  struct Case {
    std::vector<std::string> flags;
    std::string model, says;
  };
  const std::vector<Case> cases = {
      {{"--dtype", "f32"}, "tiny_glm4_moe", "has dtype f32, its leader bf16"},
      {{"--dtype", "bf16", "--cpu-path", "reference"}, "tiny_glm4_moe", "has kernels reference"},
      {{"--dtype", "bf16"}, "deepseek_v3_plain", "has model deepseek_v3_plain"},
      {{"--dtype", "bf16", "--model-name", "tiny_glm4_moe"}, "deepseek_v3_plain", "numerics id"},
      {{"--dtype", "bf16", "--group", "1"}, "tiny_glm4_moe", "belongs to group 1"},
  };
  Child leader({"--ranks", "2", "--rank", "0", "--dtype", "bf16"});
  for (const Case& c : cases) {
    std::vector<std::string> flags = {"--ranks", "2",        "--rank",
                                      "1",       "--leader", leader.Address("grpc")};
    flags.insert(flags.end(), c.flags.begin(), c.flags.end());
    Child other(flags, c.model);
    EXPECT_TRUE(other.Logs(c.says)) << other.log();
    EXPECT_THAT(ReasonWith(leader.Address("grpc"), c.says),
                HasSubstr("rank 1 was refused: rank 1"));
    EXPECT_EQ(leader.log().find("ready in epoch"), std::string::npos);
  }
  Child right(
      {"--ranks", "2", "--rank", "1", "--dtype", "bf16", "--leader", leader.Address("grpc")});
  EXPECT_TRUE(right.Logs("ready in epoch")) << right.log();
}

TEST(WorkerProcesses, AStoppedRankIsFoundBySilenceAndTakenBack) {
  const auto start = [](std::vector<std::string> flags) {
    flags.insert(flags.end(), {"--ranks", "2", "--heartbeat-timeout", "500ms"});
    return std::make_unique<Child>(flags);
  };
  auto leader = start({"--rank", "0"});
  auto follower = start({"--rank", "1", "--leader", leader->Address("grpc")});
  ASSERT_TRUE(leader->Logs("ready in epoch")) << leader->log();
  ASSERT_TRUE(follower->Logs("ready in epoch")) << follower->log();
  follower->Signal(SIGSTOP);
  EXPECT_TRUE(leader->Logs("was silent for")) << leader->log();
  follower->Signal(SIGCONT);
  ASSERT_TRUE(leader->Logs("ready in epoch")) << leader->log();
  ASSERT_TRUE(follower->Logs("ready in epoch")) << follower->log();
  leader->Signal(SIGSTOP);
  EXPECT_TRUE(follower->Logs("was silent for")) << follower->log();
  leader->Signal(SIGCONT);
  ASSERT_TRUE(leader->Logs("ready in epoch")) << leader->log();
  v1::Finish finish = v1::FINISH_NONE;
  EXPECT_EQ(Generate(leader->Address("grpc"), 3, &finish).size(), 3u);
}

TEST(WorkerProcesses, ABrokenModelDirectoryEndsItWithOneMessage) {
  Child worker({}, "no_such_model");
  EXPECT_TRUE(worker.Logs("no_such_model")) << worker.log();
  EXPECT_EQ(worker.Wait(), 1);
}

TEST(WorkerProcesses, ASecondSignalEndsItAtOnce) {
  auto leader = Leader();
  ASSERT_TRUE(leader->Logs("asks to join")) << leader->log();
  leader->Signal(SIGSTOP);  // so that both signals are there at once
  leader->Signal(SIGTERM);
  leader->Signal(SIGINT);
  leader->Signal(SIGCONT);
  EXPECT_EQ(leader->Wait(), 1);
}

}  // namespace
}  // namespace choir
