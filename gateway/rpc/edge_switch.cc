// Moves new requests away from a router that drains, without touching those that run there.
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <utility>

#include "common/base/log.h"
#include "gateway/rpc/edge_link.h"

namespace choir {
namespace {

constexpr int kLinkShift = 40;  // a request's number: its link's above this bit
constexpr auto kSweepInterval = std::chrono::milliseconds(200);

class EdgeSwitch final : public EdgeClient {
 public:
  EdgeSwitch(boost::asio::io_context& io, EdgeClientOptions options)
      : io_(io),
        sweep_(io),
        options_(std::move(options)),
        alive_(std::make_shared<EdgeSwitch*>(this)) {
    current_ = NewLink(0);
  }
  ~EdgeSwitch() override { *alive_ = nullptr; }

  bool connected() const override { return current_.link->connected(); }
  std::string reason() const override { return current_.link->reason(); }
  const std::vector<ApiModel>& models() const override { return current_.link->models(); }

  void Authenticate(EdgeCaller caller, AuthDone done) override {
    current_.link->Authenticate(std::move(caller), std::move(done));
  }
  void Explain(const ApiRequest& request, const EdgeOpenInfo& info, ExplainDone done) override {
    current_.link->Explain(request, info, std::move(done));
  }
  uint64_t Open(const ApiRequest& request, size_t prompt, const EdgeOpenInfo& info,
                std::shared_ptr<EdgeListener> listener) override {
    return current_.link->Open(request, prompt, info, std::move(listener));
  }
  uint64_t Attach(const std::string& request_id, const StreamPosition& position,
                  const EdgeOpenInfo& info, std::shared_ptr<EdgeListener> listener) override {
    return current_.link->Attach(request_id, position, info, std::move(listener));
  }
  void Took(uint64_t id, size_t bytes) override {
    if (EdgeLink* link = LinkOf(id)) link->Took(id, bytes);
  }
  void Cancel(uint64_t id) override {
    if (EdgeLink* link = LinkOf(id)) link->Cancel(id);
  }

 private:
  struct Numbered {
    uint64_t number = 0;
    std::unique_ptr<EdgeLink> link;
  };

  Numbered NewLink(size_t router) {
    const uint64_t number = ++last_number_;
    auto on_change = [this] {  // links end with this; they must not be destroyed in their callback
      boost::asio::post(io_, [alive = alive_] {
        if (*alive != nullptr) (*alive)->OnChange();
      });
    };
    return {number,
            EdgeLink::Make(
                io_, options_,
                {.router = router, .id = number << kLinkShift, .on_change = std::move(on_change)})};
  }

  EdgeLink* LinkOf(uint64_t id) {
    const uint64_t number = id >> kLinkShift;
    if (number == current_.number) return current_.link.get();
    for (const Numbered& old : leaving_) {
      if (old.number == number) return old.link.get();
    }
    return nullptr;
  }

  void OnChange() {
    if (options_.routers.size() < 2) return;
    if (current_.link->connected()) {
      next_ = {};  // it is well again
      return;
    }
    if (next_.link == nullptr && current_.link->draining()) {
      next_ = NewLink(current_.link->router() + 1);
      next_.link->SetSeeking(true);
    }
    if (next_.link == nullptr || !next_.link->connected()) return;
    CHOIR_LOG(info, "new requests go to router {}", options_.routers[next_.link->router()]);
    next_.link->SetSeeking(false);
    leaving_.push_back(std::exchange(current_, std::exchange(next_, {})));
    if (leaving_.size() == 1) Sweep();
  }

  void Sweep() {
    std::erase_if(leaving_, [](const Numbered& old) { return old.link->idle(); });
    if (leaving_.empty()) return;
    sweep_.expires_after(kSweepInterval);
    sweep_.async_wait([alive = alive_](boost::system::error_code error) {
      if (!error && *alive != nullptr) (*alive)->Sweep();
    });
  }

  boost::asio::io_context& io_;
  boost::asio::steady_timer sweep_;
  const EdgeClientOptions options_;
  std::shared_ptr<EdgeSwitch*> alive_;  // its target is nullptr once this is destroyed
  uint64_t last_number_ = 0;
  Numbered current_;               // takes new requests
  Numbered next_;                  // will, once it is connected
  std::vector<Numbered> leaving_;  // their routers drain, their requests go on
};

}  // namespace

std::unique_ptr<EdgeClient> EdgeClient::Make(boost::asio::io_context& io,
                                             EdgeClientOptions options) {
  return std::make_unique<EdgeSwitch>(io, std::move(options));
}

}  // namespace choir
