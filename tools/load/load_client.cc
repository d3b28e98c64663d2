#include "tools/load/load_client.h"

#include <curl/curl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>

#include "common/base/clock.h"
#include "tools/load/sse_reader.h"

namespace choir {
namespace {

using Json = nlohmann::json;

double Now() { return Seconds(Clock::Real().Now().time_since_epoch()); }

std::string ErrorText(const Json& json) {
  const auto error = json.find("error");
  if (error == json.end() || !error->is_object()) return "";
  const auto message = error->find("message");
  return message != error->end() && message->is_string() ? message->get<std::string>() : "error";
}

// Lets a poll end at a time that is finer than its milliseconds, without a spin before it.
class PollTimer {
 public:
  PollTimer() : fd_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)) {}
  ~PollTimer() {
    if (fd_ >= 0) close(fd_);
  }
  PollTimer(const PollTimer&) = delete;
  PollTimer& operator=(const PollTimer&) = delete;
  int fd() const { return fd_; }
  void Set(double seconds) {
    const auto ns = static_cast<int64_t>(std::max(seconds * 1e9, 1.0));
    const itimerspec at{.it_interval = {}, .it_value = {ns / 1'000'000'000, ns % 1'000'000'000}};
    (void)timerfd_settime(fd_, 0, &at, nullptr);
  }

 private:
  const int fd_;
};

// One request on its way.
struct Transfer {
  LoadRecord* record = nullptr;
  std::string body;   // what is sent
  SseReader events;   // of what came
  bool done = false;  // [DONE] was seen

  void OnEvent(std::string_view data, double now) {
    if (data == "[DONE]") {
      done = true;
      return;
    }
    const Json json = Json::parse(data, nullptr, false);
    if (!json.is_object()) {
      record->error = "an event is no JSON object";
      return;
    }
    if (std::string error = ErrorText(json); !error.empty()) record->error = std::move(error);
    if (const auto usage = json.find("usage"); usage != json.end() && usage->is_object()) {
      record->prompt_tokens = usage->value("prompt_tokens", int64_t{0});
      record->output_tokens = usage->value("completion_tokens", int64_t{0});
      record->cached_tokens = usage->value("prompt_cache_hit_tokens", int64_t{0});
    }
    const auto choices = json.find("choices");
    if (choices == json.end() || choices->empty()) return;
    record->pieces.push_back(now);
  }

  void OnData(std::string_view data) {
    const double now = Now();
    events.Push(data, [&](std::string_view, std::string_view event) {
      OnEvent(event, now);
      return true;
    });
  }
};

size_t OnCurlData(char* data, size_t, size_t n, void* user) {
  static_cast<Transfer*>(user)->OnData({data, n});
  return n;
}

class Runner {
 public:
  Runner(const LoadTarget& target, Arrival arrival, const std::vector<PlannedRequest>& plan)
      : target_(target), arrival_(arrival), plan_(plan), records_(plan.size()) {}

  ~Runner() {
    for (auto& [curl, transfer] : open_) {
      curl_multi_remove_handle(multi_, curl);
      curl_easy_cleanup(curl);
    }
    for (CURL* curl : idle_) curl_easy_cleanup(curl);
    curl_slist_free_all(headers_);
    if (multi_ != nullptr) curl_multi_cleanup(multi_);
  }

  StatusOr<std::vector<LoadRecord>> Run() {
    multi_ = curl_multi_init();
    if (multi_ == nullptr || timer_.fd() < 0) return Internal("libcurl cannot start");
    headers_ = curl_slist_append(nullptr, ("Authorization: Bearer " + target_.api_key).c_str());
    headers_ = curl_slist_append(headers_, "Content-Type: application/json");
    headers_ = curl_slist_append(headers_, "Expect:");
    start_ = Now();
    while (MayBegin() || !open_.empty()) {
      CHOIR_RETURN_IF_ERROR(StartDue());
      int running = 0;
      curl_multi_perform(multi_, &running);
      TakeEnded();
      if (open_.empty() && !MayBegin()) break;
      Wait();
    }
    records_.resize(next_);
    return std::move(records_);
  }

 private:
  bool MayBegin() const { return next_ < plan_.size() && Now() < start_ + target_.seconds_max; }
  bool HasRoom() const { return static_cast<int64_t>(open_.size()) < target_.streams; }

  void Wait() {
    constexpr int kLongestMs = 1000;
    if (!MayBegin() || !HasRoom()) {
      curl_multi_poll(multi_, nullptr, 0, kLongestMs, nullptr);
      return;
    }
    timer_.Set(start_ + plan_[next_].at_seconds - Now());
    curl_waitfd timer{.fd = timer_.fd(), .events = CURL_WAIT_POLLIN, .revents = 0};
    curl_multi_poll(multi_, &timer, 1, kLongestMs, nullptr);
  }

  Status StartDue() {
    while (MayBegin() && HasRoom()) {
      const double now = Now();
      const double due = arrival_ == Arrival::kClosed ? now : start_ + plan_[next_].at_seconds;
      if (due > now) return absl::OkStatus();
      records_[next_].due = due;
      CHOIR_RETURN_IF_ERROR(Start(plan_[next_], &records_[next_]));
      ++next_;
    }
    return absl::OkStatus();
  }

  Status Start(const PlannedRequest& request, LoadRecord* record) {
    CURL* curl = nullptr;
    if (idle_.empty()) {
      curl = curl_easy_init();
      if (curl == nullptr) return Internal("libcurl cannot start a request");
    } else {
      curl = idle_.back();
      idle_.pop_back();
    }
    auto transfer = std::make_unique<Transfer>();
    transfer->record = record;
    transfer->body = Json{{"model", target_.model},
                          {"prompt", request.prompt},
                          {"max_tokens", request.output},
                          {"ignore_eos", true},
                          {"temperature", target_.temperature},
                          {"stream", true},
                          {"stream_options", {{"include_usage", true}}}}
                         .dump();
    if (!target_.ca.empty()) curl_easy_setopt(curl, CURLOPT_CAINFO, target_.ca.c_str());
    curl_easy_setopt(curl, CURLOPT_URL, (target_.url + "/v1/completions").c_str());
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers_);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, static_cast<long>(target_.timeout_seconds * 1000));
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE,
                     static_cast<curl_off_t>(transfer->body.size()));
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, transfer->body.c_str());
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, OnCurlData);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, transfer.get());
    curl_multi_add_handle(multi_, curl);
    open_.emplace(curl, std::move(transfer));
    return absl::OkStatus();
  }

  void TakeEnded() {
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      CURL* const curl = message->easy_handle;
      const CURLcode result = message->data.result;
      const auto at = open_.find(curl);
      End(*at->second, curl, result);
      curl_multi_remove_handle(multi_, curl);
      open_.erase(at);
      idle_.push_back(curl);
    }
  }

  void End(const Transfer& transfer, CURL* curl, CURLcode result) const {
    LoadRecord& record = *transfer.record;
    record.end = Now();
    long code = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
    record.code = static_cast<int>(code);
    if (!record.error.empty()) return;
    if (result != CURLE_OK) {
      record.error = curl_easy_strerror(result);
    } else if (code != 200) {
      const Json json = Json::parse(transfer.events.rest(), nullptr, false);
      record.error = json.is_object() ? ErrorText(json) : "";
      if (record.error.empty()) record.error = "HTTP " + std::to_string(code);
    } else if (!transfer.done) {
      record.error = "the stream ended without [DONE]";
    }
  }

  const LoadTarget& target_;
  const Arrival arrival_;
  const std::vector<PlannedRequest>& plan_;
  std::vector<LoadRecord> records_;
  PollTimer timer_;
  CURLM* multi_ = nullptr;
  curl_slist* headers_ = nullptr;
  double start_ = 0;
  size_t next_ = 0;  // of the plan
  std::unordered_map<CURL*, std::unique_ptr<Transfer>> open_;
  std::vector<CURL*> idle_;
};

}  // namespace

StatusOr<std::vector<LoadRecord>> RunLoad(const LoadTarget& target, Arrival arrival,
                                          const std::vector<PlannedRequest>& plan) {
  return Runner(target, arrival, plan).Run();
}

}  // namespace choir
