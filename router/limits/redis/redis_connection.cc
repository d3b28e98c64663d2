#include "router/limits/redis/redis_connection.h"

#include <pthread.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "router/limits/redis/redis_link.h"
#include "router/limits/redis/redis_protocol.h"

namespace choir {
namespace {

namespace asio = boost::asio;
using asio::awaitable;
using Words = std::vector<std::string>;
constexpr auto kToken = asio::as_tuple(asio::use_awaitable);

// What the connection's thread has for the owner thread. Outlives both: a task may still be queued.
class Deliveries {
 public:
  using Task = std::function<void()>;
  explicit Deliveries(std::function<void(Task)> post) : post_(std::move(post)) {}

  // Any thread.
  void Add(const std::shared_ptr<Deliveries>& self, Task task) {
    std::lock_guard lock(mu_);
    if (closed_) return;
    tasks_.push_back(std::move(task));
    if (!std::exchange(posted_, true)) post_([self] { self->Run(); });
  }
  // Owner thread, or when that is gone.
  void Close() {
    std::lock_guard lock(mu_);
    closed_ = true;
    tasks_.clear();
  }

 private:
  void Run() {
    std::deque<Task> tasks;
    {
      std::lock_guard lock(mu_);
      posted_ = false;
      tasks.swap(tasks_);
    }
    for (const Task& task : tasks) {
      {
        std::lock_guard lock(mu_);
        if (closed_) return;
      }
      task();
    }
  }

  const std::function<void(Task)> post_;
  std::mutex mu_;  // guards what follows
  std::deque<Task> tasks_;
  bool posted_ = false, closed_ = false;
};

class Connection final : public ScriptRunner {
 public:
  Connection(RedisConnectionOptions options, std::function<void(std::function<void()>)> post)
      : options_(std::move(options)), deliveries_(std::make_shared<Deliveries>(std::move(post))) {}
  ~Connection() override {
    deliveries_->Close();
    if (!thread_.joinable()) return;
    asio::post(io_, [this] { Stop(); });
    thread_.join();
  }

  void SetEvents(Events events) override {
    events_ = std::move(events);
    asio::co_spawn(io_, Keep(), asio::detached);
    thread_ = std::thread([this] {
      pthread_setname_np(pthread_self(), "choir-redis");
      io_.run();
    });
  }

  void Run(ScriptCall call, Done done) override {
    {
      std::lock_guard lock(mu_);
      if (pending_ < options_.pending_max) {
        ++pending_;
        outbox_.push_back({std::move(call), std::move(done)});
        if (outbox_.size() == 1) asio::post(io_, [this] { SendOutbox(); });
        return;
      }
    }
    Restart("too many calls are under way");
    deliveries_->Add(deliveries_, [done = std::move(done)] {
      done(ResourceExhausted("too many calls to Redis are under way"));
    });
  }

  void Restart(const std::string& why) override {
    asio::post(io_, [this, why] { Lose(why); });
  }

 private:
  struct Job {
    ScriptCall call;
    Done done;
  };
  // Sent, or about to be.
  struct Command {
    std::function<void(StatusOr<Words>)> done;
    MonoTime deadline;
  };

  static MonoTime Now() { return Clock::Real().Now(); }

  awaitable<void> Keep();
  awaitable<Status> Serve(RedisLink& link);
  awaitable<void> Write(std::shared_ptr<RedisLink> link);
  void Greet(MonoTime deadline);
  void OnReady(const std::string& sha);
  void Send(const Words& words, MonoTime deadline, std::function<void(StatusOr<Words>)> done);
  void SendOutbox();
  void SendJob(Job job);
  void FailJob(Done done, const Status& status);
  void OnAnswer(StatusOr<Words> answer);
  void Lose(const std::string& why);
  void Stop();
  void Guard(MonoTime deadline);
  void OnDeadline();
  void Tick();
  void Deliver(std::function<void()> task) { deliveries_->Add(deliveries_, std::move(task)); }

  const RedisConnectionOptions options_;
  const std::shared_ptr<Deliveries> deliveries_;
  asio::io_context io_{1};
  Events events_;

  std::mutex mu_;  // guards the following
  std::vector<Job> outbox_;
  size_t pending_ = 0;

  // The thread's own.
  bool stopping_ = false;
  std::shared_ptr<RedisLink> link_;  // null: lost
  bool ready_ = false, writing_ = false;
  std::string sha_;
  std::string out_;                           // to be written
  std::deque<Command> commands_;              // in the order of their answers
  MonoTime opening_until_ = MonoTime::max();  // the link; max: it is open, or not yet on its way
  MonoTime guarded_ = MonoTime::max();        // when alarm_ rings
  asio::steady_timer alarm_{io_}, retry_{io_}, tick_{io_};
  Duration backoff_{};
  std::thread thread_;
};

// One connection after the other.
awaitable<void> Connection::Keep() {
  while (!stopping_) {
    const auto link = link_ = std::make_shared<RedisLink>(io_, options_.lookup);
    const Status ended = co_await Serve(*link);
    if (link == link_) Lose(MessageOf(ended));
    if (stopping_) break;
    backoff_ = std::clamp(backoff_ * 2, options_.retry_min, options_.retry_max);
    retry_.expires_after(backoff_);
    (void)co_await retry_.async_wait(kToken);
  }
  alarm_.cancel();
}

// From its beginning to its end, and why it ended.
awaitable<Status> Connection::Serve(RedisLink& link) {
  const auto endpoints = co_await link.Find(options_.address);
  if (!endpoints.ok() || &link != link_.get()) co_return endpoints.status();
  opening_until_ = Now() + options_.timeout * 10;
  Guard(opening_until_);
  Status opened = co_await link.Open(*endpoints, options_.address, options_.tls);
  if (!opened.ok() || &link != link_.get()) co_return opened;
  Greet(std::exchange(opening_until_, MonoTime::max()));
  AnswerReader answers;
  while (&link == link_.get()) {
    const auto bytes = co_await link.Read();
    if (!bytes.ok()) co_return bytes.status();
    answers.Feed(*bytes);
    while (&link == link_.get()) {
      auto answer = answers.Next();
      if (!answer) break;
      OnAnswer(*std::move(answer));
    }
  }
  co_return absl::OkStatus();
}

// Everything that a fresh connection needs.
void Connection::Greet(MonoTime deadline) {
  const auto need = [this](const StatusOr<Words>& answer) {
    if (!answer.ok()) Lose(MessageOf(answer.status()));
  };
  const RedisAddress& address = options_.address;
  if (!address.password.empty()) {
    Words auth = {"AUTH"};
    if (!address.user.empty()) auth.push_back(address.user);
    auth.push_back(address.password);
    Send(auth, deadline, need);
  }
  if (address.db != 0) Send({"SELECT", std::to_string(address.db)}, deadline, need);
  Send({"SCRIPT", "LOAD", options_.script}, deadline, [this](const StatusOr<Words>& answer) {
    if (answer.ok() && answer->size() == 1) return OnReady(answer->front());
    Lose(answer.ok() ? "an answer of another form than that to SCRIPT LOAD"
                     : MessageOf(answer.status()));
  });
}

void Connection::OnReady(const std::string& sha) {
  sha_ = sha;
  ready_ = true;
  backoff_ = Duration(0);
  Tick();
  Deliver([up = events_.up] { up(); });
}

void Connection::Tick() {
  tick_.expires_after(options_.tick);
  tick_.async_wait([this](const auto& error) {
    if (error || !ready_) return;
    Deliver([tick = events_.tick] { tick(); });
    Tick();
  });
}

// REQUIRES: link_
void Connection::Send(const Words& words, MonoTime deadline,
                      std::function<void(StatusOr<Words>)> done) {
  out_ += EncodeCommand(words);
  // Later ones never have less time than earlier ones have left, but for the greeting's.
  if (!commands_.empty()) deadline = std::max(deadline, commands_.back().deadline);
  commands_.push_back({std::move(done), deadline});
  Guard(commands_.front().deadline);
  if (!std::exchange(writing_, true)) asio::co_spawn(io_, Write(link_), asio::detached);
}

awaitable<void> Connection::Write(std::shared_ptr<RedisLink> link) {
  Status written;
  while (link == link_ && !out_.empty() && written.ok()) {
    const std::string bytes = std::exchange(out_, "");
    written = co_await link->Write(bytes);
  }
  if (link == link_ && written.ok()) writing_ = false;
}

void Connection::FailJob(Done done, const Status& status) {
  {
    std::lock_guard lock(mu_);
    --pending_;
  }
  Deliver([done = std::move(done), status] { done(status); });
}

void Connection::SendJob(Job job) {
  Words words = {"EVALSHA", sha_, std::to_string(job.call.keys.size())};
  for (std::string& key : job.call.keys) words.push_back(std::move(key));
  for (std::string& argument : job.call.arguments) words.push_back(std::move(argument));
  const auto answered = [this, done = std::move(job.done)](StatusOr<Words> answer) {
    if (!answer.ok()) {
      FailJob(done, Unavailable("{}", MessageOf(answer.status())));
      return Lose(MessageOf(answer.status()));
    }
    {
      std::lock_guard lock(mu_);
      --pending_;
    }
    Deliver([done, answer = std::move(answer)] { done(answer); });
  };
  Send(words, Now() + options_.timeout, answered);
}

void Connection::SendOutbox() {
  std::vector<Job> jobs;
  {
    std::lock_guard lock(mu_);
    jobs.swap(outbox_);
  }
  for (Job& job : jobs) {
    if (ready_) {
      SendJob(std::move(job));
    } else {
      FailJob(std::move(job.done), Unavailable("not connected"));
    }
  }
}

void Connection::OnAnswer(StatusOr<Words> answer) {
  if (commands_.empty()) {
    return Lose(answer.ok() ? "an answer that nobody asked for" : MessageOf(answer.status()));
  }
  const Command command = std::move(commands_.front());
  commands_.pop_front();
  command.done(std::move(answer));
  if (stopping_ && commands_.empty()) Lose("done");
}

// Ends the connection; every command under way has its error first.
void Connection::Lose(const std::string& why) {
  if (link_ == nullptr) return;
  std::exchange(link_, nullptr)->Close();
  ready_ = writing_ = false;
  opening_until_ = MonoTime::max();
  out_.clear();
  tick_.cancel();
  for (const Command& command : std::exchange(commands_, {})) command.done(Unavailable("{}", why));
  Deliver([down = events_.down, why] { down(why); });
}

// What was given is sent, and has the usual time for its answers.
void Connection::Stop() {
  SendOutbox();
  stopping_ = true;
  retry_.cancel();
  if (!ready_ || commands_.empty()) Lose("done");
}

// Every command is answered in time, or the connection is lost. The alarm is set for the first of
// them and then for whichever is the first one when it rings, so that commands cost no timers.
void Connection::Guard(MonoTime deadline) {
  if (deadline >= guarded_) return;
  guarded_ = deadline;
  alarm_.expires_at(deadline);
  alarm_.async_wait([this](const auto& error) {
    if (!error) OnDeadline();
  });
}

void Connection::OnDeadline() {
  guarded_ = MonoTime::max();
  const MonoTime due = commands_.empty() ? opening_until_ : commands_.front().deadline;
  if (Now() < due) return Guard(due);
  const double seconds = Seconds(ready_ ? options_.timeout : options_.timeout * 10);
  Lose(fmt::format("no {} within {:g} s", commands_.empty() ? "connection" : "answer", seconds));
}

}  // namespace

std::unique_ptr<ScriptRunner> ConnectToRedis(RedisConnectionOptions options,
                                             std::function<void(std::function<void()>)> post) {
  return std::make_unique<Connection>(std::move(options), std::move(post));
}

}  // namespace choir
