#include "router/limits/redis/redis_connection.h"

#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/check.h"

namespace choir {
namespace {

using Words = std::vector<std::string>;

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

StatusOr<Words> ToWords(const redisReply* reply) {
  if (reply == nullptr) return Unavailable("the connection was lost");
  if (reply->type == REDIS_REPLY_ERROR) {
    return Unavailable("error: {}", std::string(reply->str, reply->len));
  }
  Words words;
  if (reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS) {
    words.emplace_back(reply->str, reply->len);
  }
  for (size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i < reply->elements; ++i) {
    const redisReply* const element = reply->element[i];
    if (element->type != REDIS_REPLY_STRING) return Internal("an answer that is no list of texts");
    words.emplace_back(element->str, element->len);
  }
  return words;
}

class Connection final : public ScriptRunner {
 public:
  Connection(RedisConnectionOptions options, std::function<void(std::function<void()>)> post)
      : options_(std::move(options)), deliveries_(std::make_shared<Deliveries>(std::move(post))) {
    wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHOIR_CHECK(wake_fd_ >= 0);
  }
  ~Connection() override {
    deliveries_->Close();
    stopping_ = true;
    Wake();
    if (thread_.joinable()) thread_.join();
    close(wake_fd_);
  }

  void SetEvents(Events events) override {
    events_ = std::move(events);
    thread_ = std::thread([this] { Loop(); });
  }

  void Run(ScriptCall call, Done done) override {
    {
      std::lock_guard lock(mu_);
      if (pending_ < options_.pending_max) {
        ++pending_;
        outbox_.push_back({std::move(call), std::move(done)});
        if (outbox_.size() == 1) Wake();
        return;
      }
      restart_ = "too many calls are under way";
      Wake();
    }
    deliveries_->Add(deliveries_, [done = std::move(done)] {
      done(ResourceExhausted("too many calls to Redis are under way"));
    });
  }

  void Restart(const std::string& why) override {
    std::lock_guard lock(mu_);
    restart_ = why;
    Wake();
  }

 private:
  struct Job {
    ScriptCall call;
    Done done;
  };
  // A command that was given to hiredis; freed by its callback, which always comes.
  struct Command {
    Connection* connection;
    std::function<void(StatusOr<Words>)> done;
    MonoTime deadline;
  };

  void Wake() {
    const uint64_t one = 1;
    (void)!write(wake_fd_, &one, sizeof one);
  }
  static MonoTime Now() { return Clock::Real().Now(); }

  void Loop();
  void WaitForSomething();
  void Connect();
  void OnConnected(int status);
  void Greet();
  void Send(Words words, Duration timeout, std::function<void(StatusOr<Words>)> done);
  void SendOutbox();
  void SendJob(Job job);
  void FailJob(Done done, const Status& status);
  void Drop();
  void Deliver(std::function<void()> task) { deliveries_->Add(deliveries_, std::move(task)); }

  const RedisConnectionOptions options_;
  const std::shared_ptr<Deliveries> deliveries_;
  int wake_fd_ = -1;
  Events events_;
  std::atomic<bool> stopping_{false};

  std::mutex mu_;  // guards the following
  std::vector<Job> outbox_;
  size_t pending_ = 0;
  std::string restart_;

  // The thread's own.
  redisAsyncContext* redis_ = nullptr;  // hiredis may free it: Forget sets null
  bool want_read_ = false, want_write_ = false;
  bool ready_ = false;
  std::string drop_;  // why to drop the connection; empty: not to
  std::string sha_;
  std::deque<MonoTime> deadlines_;  // of commands under way, in order
  MonoTime retry_at_{};
  Duration backoff_{};
  MonoTime tick_at_{};
  std::thread thread_;
};

void Connection::Connect() {
  redis_ = redisAsyncConnect(options_.address.host.c_str(), options_.address.port);
  if (redis_ == nullptr || redis_->err != 0) {
    drop_ = redis_ == nullptr ? "out of memory" : redis_->errstr;
    return;
  }
  redis_->data = this;
  redis_->ev.data = this;
  redis_->ev.addRead = [](void* self) { static_cast<Connection*>(self)->want_read_ = true; };
  redis_->ev.delRead = [](void* self) { static_cast<Connection*>(self)->want_read_ = false; };
  redis_->ev.addWrite = [](void* self) { static_cast<Connection*>(self)->want_write_ = true; };
  redis_->ev.delWrite = [](void* self) { static_cast<Connection*>(self)->want_write_ = false; };
  redis_->ev.cleanup = [](void* self) {  // hiredis is about to free the context
    auto* const connection = static_cast<Connection*>(self);
    connection->redis_ = nullptr;
    if (connection->drop_.empty()) connection->drop_ = "the connection was lost";
  };
  redisAsyncSetConnectCallback(redis_, [](const redisAsyncContext* redis, int status) {
    static_cast<Connection*>(redis->data)->OnConnected(status);
  });
  want_read_ = false;
  want_write_ = true;  // until connected
  Greet();
}

void Connection::OnConnected(int status) {
  if (status != REDIS_OK && drop_.empty()) drop_ = std::string("cannot connect: ") + redis_->errstr;
}

// Everything that a fresh connection needs; hiredis keeps it until the socket stands.
void Connection::Greet() {
  const Duration patience = options_.timeout * 10;
  const auto need = [this](const StatusOr<Words>& reply) {
    if (!reply.ok() && drop_.empty()) drop_ = MessageOf(reply.status());
  };
  const RedisAddress& address = options_.address;
  if (!address.password.empty()) {
    Words auth = {"AUTH"};
    if (!address.user.empty()) auth.push_back(address.user);
    auth.push_back(address.password);
    Send(std::move(auth), patience, need);
  }
  if (address.db != 0) Send({"SELECT", std::to_string(address.db)}, patience, need);
  Send({"SCRIPT", "LOAD", options_.script}, patience, [this, need](const StatusOr<Words>& reply) {
    need(reply);
    if (!reply.ok() || reply->size() != 1 || !drop_.empty()) return;
    sha_ = reply->front();
    ready_ = true;
    backoff_ = Duration(0);
    tick_at_ = Now() + options_.tick;
    Deliver([up = events_.up] { up(); });
  });
}

void Connection::Send(Words words, Duration timeout, std::function<void(StatusOr<Words>)> done) {
  std::vector<const char*> pieces;
  std::vector<size_t> sizes;
  for (const std::string& word : words) {
    pieces.push_back(word.data());
    sizes.push_back(word.size());
  }
  const MonoTime deadline = Now() + timeout;
  auto* const command = new Command{this, std::move(done), deadline};
  const auto answered = [](redisAsyncContext*, void* reply, void* data) {
    const std::unique_ptr<Command> own(static_cast<Command*>(data));
    std::deque<MonoTime>& deadlines = own->connection->deadlines_;
    if (!deadlines.empty()) deadlines.pop_front();
    own->done(ToWords(static_cast<redisReply*>(reply)));
  };
  if (redisAsyncCommandArgv(redis_, answered, command, static_cast<int>(words.size()),
                            pieces.data(), sizes.data()) != REDIS_OK) {
    const std::unique_ptr<Command> own(command);
    own->done(Unavailable("the connection is closing"));
    return;
  }
  // Later ones never have less time than earlier ones have left, but for the greeting's.
  deadlines_.push_back(deadlines_.empty() ? deadline : std::max(deadline, deadlines_.back()));
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
  const auto answered = [this, done = std::move(job.done)](StatusOr<Words> reply) {
    if (!reply.ok()) {
      if (drop_.empty()) drop_ = MessageOf(reply.status());
      return FailJob(done, Unavailable("{}", drop_));
    }
    {
      std::lock_guard lock(mu_);
      --pending_;
    }
    Deliver([done, reply = std::move(reply)] { done(reply); });
  };
  Send(std::move(words), options_.timeout, answered);
}

void Connection::SendOutbox() {
  std::vector<Job> jobs;
  {
    std::lock_guard lock(mu_);
    jobs.swap(outbox_);
    if (!restart_.empty()) drop_ = std::exchange(restart_, "");
  }
  for (Job& job : jobs) {
    if (ready_ && redis_ != nullptr && drop_.empty()) {
      SendJob(std::move(job));
    } else {
      FailJob(std::move(job.done), Unavailable("not connected"));
    }
  }
}

// Ends the connection; every command under way has its error first.
void Connection::Drop() {
  const std::string why = drop_;
  if (redis_ != nullptr) redisAsyncFree(redis_);  // calls the callbacks, then the cleanup
  redis_ = nullptr;
  ready_ = false;
  deadlines_.clear();
  drop_.clear();
  Deliver([down = events_.down, why] { down(why); });
  backoff_ = std::clamp(backoff_ * 2, options_.retry_min, options_.retry_max);
  retry_at_ = Now() + backoff_;
}

void Connection::WaitForSomething() {
  MonoTime until = Now() + std::chrono::hours(1);
  if (redis_ == nullptr) until = retry_at_;
  if (!deadlines_.empty()) until = std::min(until, deadlines_.front());
  if (ready_) until = std::min(until, tick_at_);
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Now());
  pollfd fds[2] = {{wake_fd_, POLLIN, 0}, {-1, 0, 0}};
  if (redis_ != nullptr) {
    const int events = (want_read_ ? POLLIN : 0) | (want_write_ ? POLLOUT : 0);
    fds[1] = {redis_->c.fd, static_cast<short>(events), 0};
  }
  (void)poll(fds, 2, static_cast<int>(std::max<int64_t>(0, left.count())));
  if (fds[0].revents != 0) {
    uint64_t count = 0;
    (void)!read(wake_fd_, &count, sizeof count);
  }
  if (redis_ != nullptr && (fds[1].revents & (POLLOUT | POLLERR | POLLHUP)) != 0) {
    redisAsyncHandleWrite(redis_);
  }
  if (redis_ != nullptr && (fds[1].revents & (POLLIN | POLLERR | POLLHUP)) != 0) {
    redisAsyncHandleRead(redis_);
  }
}

void Connection::Loop() {
  pthread_setname_np(pthread_self(), "choir-redis");
  while (!stopping_) {
    if (redis_ == nullptr && Now() >= retry_at_) Connect();
    if (drop_.empty()) WaitForSomething();  // else connecting failed at once
    SendOutbox();
    const MonoTime now = Now();
    if (drop_.empty() && !deadlines_.empty() && now >= deadlines_.front()) {
      drop_ = fmt::format("no answer within {:g} s", Seconds(options_.timeout));
    }
    if (!drop_.empty()) Drop();
    if (ready_ && now >= tick_at_) {
      tick_at_ = now + options_.tick;
      Deliver([tick = events_.tick] { tick(); });
    }
  }
  SendOutbox();
  const MonoTime end = Now() + options_.timeout;
  while (redis_ != nullptr && ready_ && !deadlines_.empty() && drop_.empty() && Now() < end) {
    WaitForSomething();
  }
  if (redis_ != nullptr) redisAsyncFree(redis_);
}

}  // namespace

std::unique_ptr<ScriptRunner> ConnectToRedis(RedisConnectionOptions options,
                                             std::function<void(std::function<void()>)> post) {
  return std::make_unique<Connection>(std::move(options), std::move(post));
}

}  // namespace choir
