#include "router/membership/worker_directory.h"

#include <netdb.h>
#include <pthread.h>
#include <sys/socket.h>

#include <algorithm>
#include <set>

#include "common/base/log.h"
#include "router/membership/discovery.h"

namespace choir {

StatusOr<std::vector<std::string>> LookUpWorkers(const std::string& name, const std::string& port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int rc = getaddrinfo(name.c_str(), port.c_str(), &hints, &found);
  if (rc == EAI_NONAME || rc == EAI_NODATA) return NotFound("{}: no such name", name);
  if (rc != 0) return Unavailable("{}: {}", name, gai_strerror(rc));
  std::set<std::string> v4, v6;
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    char text[NI_MAXHOST] = {};
    if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0)
      continue;
    if (a->ai_family == AF_INET) v4.insert(fmt::format("{}:{}", text, port));
    if (a->ai_family == AF_INET6) v6.insert(fmt::format("[{}]:{}", text, port));
  }
  freeaddrinfo(found);
  const std::set<std::string>& all = v4.empty() ? v6 : v4;
  return std::vector<std::string>(all.begin(), all.end());
}

WorkerDirectory::WorkerDirectory(Duration interval, LookUp look_up,
                                 std::function<void(const std::vector<std::string>&)> on_change)
    : interval_(interval),
      look_up_(std::move(look_up)),
      on_change_(std::move(on_change)),
      thread_([this] {
        pthread_setname_np(pthread_self(), "discovery");
        Run();
      }) {}

WorkerDirectory::~WorkerDirectory() {
  {
    std::lock_guard lock(mu_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void WorkerDirectory::SetEntries(std::vector<std::string> entries) {
  {
    std::lock_guard lock(mu_);
    new_entries_ = std::move(entries);
  }
  changed_.notify_all();
}

void WorkerDirectory::Run() {
  std::vector<std::string> entries;
  std::optional<std::vector<std::string>> told;
  bool follows = false;  // there are names among the entries
  std::unique_lock lock(mu_);
  while (true) {
    const auto news = [this] { return stop_ || new_entries_.has_value(); };
    if (follows) {
      changed_.wait_for(lock, interval_, news);
    } else {
      changed_.wait(lock, news);
    }
    if (stop_) return;
    if (new_entries_) entries = *std::exchange(new_entries_, std::nullopt);
    follows = std::any_of(entries.begin(), entries.end(), IsDnsName);
    lock.unlock();
    std::vector<std::string> addresses = Resolve(entries);
    if (addresses != told) {
      told = addresses;
      on_change_(addresses);
    }
    lock.lock();
  }
}

std::vector<std::string> WorkerDirectory::Resolve(const std::vector<std::string>& entries) {
  std::set<std::string> all;
  for (const std::string& entry : entries) {
    if (!IsDnsName(entry)) {
      all.insert(entry);
    } else {
      const std::vector<std::string>& found = AddressesOf(entry);
      all.insert(found.begin(), found.end());
    }
  }
  std::erase_if(names_, [&](const auto& name) {
    return std::find(entries.begin(), entries.end(), name.first) == entries.end();
  });
  std::vector<std::string> bounded(all.begin(), all.end());
  if (bounded.size() > kWorkersMax) {
    CHOIR_LOG(error, "{} workers were found, more than {}: the rest is left out", bounded.size(),
              kWorkersMax);
    bounded.resize(kWorkersMax);
  }
  return bounded;
}

const std::vector<std::string>& WorkerDirectory::AddressesOf(const std::string& entry) {
  const size_t colon = entry.rfind(':');
  auto found = look_up_(entry.substr(4, colon - 4), entry.substr(colon + 1));
  Name& name = names_[entry];
  const std::string error = MessageOf(found.status());
  if (error != name.error) {
    name.error = error;
    if (!error.empty()) CHOIR_LOG(warn, "{}: {}", entry, error);
  }
  if (absl::IsNotFound(found.status())) found = std::vector<std::string>();
  if (found.ok() && *found != name.addresses) {
    CHOIR_LOG(info, "{}: {} workers", entry, found->size());
    name.addresses = std::move(*found);
  }
  return name.addresses;
}

}  // namespace choir
