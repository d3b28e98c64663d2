// Moves new requests away from a router that drains or is unfit, without touching those that run
// there; asks all routers for a stream that lost its gateway.
#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>
#include <utility>

#include "common/base/log.h"
#include "gateway/rpc/stream_search.h"

namespace choir {
namespace {

constexpr int kLinkShift = 40;  // a request's number: its link's above this bit
constexpr auto kSweepInterval = std::chrono::milliseconds(200);
constexpr auto kAskTime = std::chrono::seconds(3);

class EdgeSwitch final : public EdgeClient, public SearchLinks {
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
    StreamSearch::Routers order;
    for (size_t i = 0; i < options_.routers.size(); ++i) {
      const size_t router = (current_.link->router() + i) % options_.routers.size();
      order.emplace_back(router, options_.routers[router]);
    }
    const uint64_t id = ++last_search_;
    const auto search = std::make_shared<StreamSearch>(
        io_, this, std::move(order),
        SearchedStream{request_id, position, info, std::move(listener)}, kAskTime);
    searches_.emplace(id, search);
    // Not before the caller knows its number.
    boost::asio::post(io_, [weak = std::weak_ptr(search)] {
      if (const auto self = weak.lock()) self->Start();
    });
    return id;
  }
  void Took(uint64_t id, size_t bytes) override {
    if (const auto it = searches_.find(id); it != searches_.end()) return it->second->Took(bytes);
    if (EdgeLink* link = LinkOf(id)) link->Took(id, bytes);
  }
  void Cancel(uint64_t id) override {
    if (const auto node = searches_.extract(id)) return node.mapped()->Cancel();
    if (EdgeLink* link = LinkOf(id)) link->Cancel(id);
  }

 private:
  struct Numbered {
    uint64_t number = 0;
    std::unique_ptr<EdgeLink> link;
    bool stays = false;       // at its router
    bool comes_back = false;  // its router is unfit: takes new requests again when it is fit
  };

  Numbered NewLink(size_t router, bool stays = false) {
    const uint64_t number = ++last_number_;
    auto on_change = [this, number] {  // links end with this, but not in their own callback
      boost::asio::post(io_, [alive = alive_, number] {
        if (*alive != nullptr) (*alive)->OnChange(number);
      });
    };
    return {number,
            EdgeLink::Make(io_, options_,
                           {.router = router,
                            .stays = stays,
                            .id = number << kLinkShift,
                            .on_change = std::move(on_change)}),
            stays};
  }

  EdgeLink* LinkOf(uint64_t id) override {
    const uint64_t number = id >> kLinkShift;
    if (number == current_.number) return current_.link.get();
    for (const Numbered& other : others_) {
      if (other.number == number) return other.link.get();
    }
    return nullptr;
  }

  // One that stays: a stream that is taken up would follow another one, when it breaks, to a router
  // that does not have it.
  EdgeLink& LinkTo(size_t router) override {
    if (options_.routers.size() == 1 && current_.link->reached()) return *current_.link;
    const auto it = std::find_if(others_.begin(), others_.end(), [router](const Numbered& item) {
      return item.stays && item.link->router() == router;
    });
    if (it != others_.end()) return *it->link;
    others_.push_back(NewLink(router, /*stays=*/true));
    StartSweep();
    return *others_.back().link;
  }

  void OnChange(uint64_t number) {
    const auto it = std::find_if(others_.begin(), others_.end(),
                                 [number](const Numbered& item) { return item.number == number; });
    if (it != others_.end() && it->stays) return TellSearches(*it->link);
    ComeBack();
    if (options_.routers.size() < 2) return;
    if (current_.link->fit()) {
      next_ = {};  // it is well again
      return;
    }
    if (next_.link == nullptr && current_.link->reached()) {
      next_ = NewLink(current_.link->router() + 1);
      next_.link->SetSeeking(true);
    }
    if (next_.link == nullptr || !next_.link->fit()) return;
    CHOIR_LOG(info, "new requests go to router {}", options_.routers[next_.link->router()]);
    next_.link->SetSeeking(false);
    current_.comes_back = current_.link->connected();  // and so unfit, not draining
    others_.push_back(std::exchange(current_, std::exchange(next_, {})));
    StartSweep();
  }

  void TellSearches(const EdgeLink& link) {
    const auto searches = searches_;  // what one hears may end it, or make a link
    for (const auto& [id, search] : searches) search->OnLink(link.router(), link);
  }

  void ComeBack() {
    for (Numbered& other : others_) {
      if (!other.comes_back) continue;
      other.comes_back = other.link->connected();
      if (!other.link->fit()) continue;
      CHOIR_LOG(info, "new requests go to router {} again", options_.routers[other.link->router()]);
      other.comes_back = false;
      std::swap(current_, other);
      next_ = {};
      return;
    }
  }

  bool IsAwaited(const Numbered& other) const {
    const auto waits = [&other](const auto& item) {
      return item.second->WaitsFor(other.link->router());
    };
    return other.stays && std::any_of(searches_.begin(), searches_.end(), waits);
  }

  void StartSweep() {
    if (!std::exchange(sweeping_, true)) Sweep();
  }
  void Sweep() {
    sweep_.expires_after(kSweepInterval);
    sweep_.async_wait([alive = alive_](boost::system::error_code error) {
      if (error || *alive == nullptr) return;
      EdgeSwitch& self = **alive;
      std::erase_if(self.others_, [&self](const Numbered& other) {
        return other.link->idle() && !other.comes_back && !self.IsAwaited(other);
      });
      self.sweeping_ = !self.others_.empty();
      if (self.sweeping_) self.Sweep();
    });
  }

  boost::asio::io_context& io_;
  boost::asio::steady_timer sweep_;
  const EdgeClientOptions options_;
  std::shared_ptr<EdgeSwitch*> alive_;  // its target is nullptr once this is destroyed
  uint64_t last_number_ = 0;
  Numbered current_;  // takes new requests
  Numbered next_;     // will, once it is connected
  // Their routers drain or are unfit, and their requests go on; or they were asked for a stream.
  std::vector<Numbered> others_;
  bool sweeping_ = false;
  // By number, which is below any of a link's; until they are cancelled.
  std::map<uint64_t, std::shared_ptr<StreamSearch>> searches_;
  uint64_t last_search_ = 0;
};

}  // namespace

std::unique_ptr<EdgeClient> EdgeClient::Make(boost::asio::io_context& io,
                                             EdgeClientOptions options) {
  return std::make_unique<EdgeSwitch>(io, std::move(options));
}

}  // namespace choir
