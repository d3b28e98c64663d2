#include "gateway/upstream.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

#include "gateway/http/request_id.h"

namespace choir {

namespace asio = boost::asio;

class Upstream::Part final : public EdgeListener {
 public:
  Part(std::shared_ptr<Upstream> upstream, size_t index)
      : upstream_(std::move(upstream)), index_(index) {}
  void OnAccepted(EdgeAcceptedInfo info) override { upstream_->OnAccepted(std::move(info)); }
  void OnDelta(ApiDelta delta, size_t bytes) override {
    upstream_->OnDelta(index_, std::move(delta), bytes);
  }
  void OnDone(ApiUsage usage) override { upstream_->OnDone(usage); }
  void OnError(RestError error) override { upstream_->OnError(std::move(error)); }

 private:
  const std::shared_ptr<Upstream> upstream_;
  const size_t index_;
};

void Upstream::Open(const ApiRequest& request, EdgeOpenInfo info, uint64_t window_bytes) {
  const size_t count = request.chat ? 1 : request.prompts.size();
  parts_.resize(count);
  choices_each_ = request.sampling.n.value_or(1);
  if (window_bytes != 0) info.window_bytes = std::max<uint64_t>(window_bytes / count, 1);
  if (count > 1) batch_id_ = std::exchange(info.client_request_id, "");
  if (count > 1 && batch_id_.empty()) batch_id_ = MakeRequestId();
  if (count > 1) info.resume_state.clear();  // a batch has no one place to go on from
  for (size_t i = 0; i < count; ++i) {
    std::string name = fmt::format("{}.{}", batch_id_, i);
    if (count > 1 && IsRequestId(name)) info.client_request_id = std::move(name);
    parts_[i].id = edge_->Open(request, i, info, std::make_shared<Part>(shared_from_this(), i));
  }
}

void Upstream::Attach(const std::string& request_id, const StreamPosition& position,
                      const EdgeOpenInfo& info) {
  parts_.resize(1);
  parts_[0].id =
      edge_->Attach(request_id, position, info, std::make_shared<Part>(shared_from_this(), 0));
}

void Upstream::Cancel() {
  for (const PartState& part : parts_) edge_->Cancel(part.id);
}

void Upstream::Notify() {
  news_ = true;
  wake_.cancel();
}

void Upstream::OnAccepted(EdgeAcceptedInfo info) {
  info.recalled &= num_accepted_ == 0 || accepted_.recalled;  // all of a batch
  accepted_ = std::move(info);
  if (!batch_id_.empty()) accepted_.request_id = batch_id_;
  ++num_accepted_;
  Notify();
}

void Upstream::OnDelta(size_t part, ApiDelta delta, size_t bytes) {
  if (client_gone_ || failed()) return;
  parts_[part].bytes_waiting += bytes;
  delta.choice += static_cast<uint32_t>(part) * choices_each_;
  deltas_.push_back(std::move(delta));
  Notify();
}

void Upstream::OnDone(const ApiUsage& usage) {
  usage_.prompt_tokens += usage.prompt_tokens;
  usage_.cached_tokens += usage.cached_tokens;
  usage_.output_tokens += usage.output_tokens;
  usage_.reasoning_tokens += usage.reasoning_tokens;
  ++num_done_;
  Notify();
}

void Upstream::OnError(RestError error) {
  if (failed()) return;
  // The router's word for a client that it waited for too long.
  if (error.http == 499) return OnClientGone();
  error_ = std::move(error);
  if (!batch_id_.empty()) error_.request_id = batch_id_;
  Notify();
}

void Upstream::OnClientGone() {
  if (std::exchange(client_gone_, true)) return;
  deltas_.clear();
  if (on_lost_) on_lost_();
  Notify();
}

std::deque<ApiDelta> Upstream::TakeDeltas() {
  for (PartState& part : parts_) part.bytes_taken += std::exchange(part.bytes_waiting, 0);
  return std::exchange(deltas_, {});
}

void Upstream::Took() {
  for (PartState& part : parts_) {
    if (part.bytes_taken != 0) edge_->Took(part.id, std::exchange(part.bytes_taken, 0));
  }
}

asio::awaitable<bool> Upstream::Wait(Duration timeout) {
  if (!news_) {
    wake_.expires_after(std::chrono::duration_cast<asio::steady_timer::duration>(timeout));
    (void)co_await wake_.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  co_return std::exchange(news_, false);
}

}  // namespace choir
