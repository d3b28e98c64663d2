// The admin port of every part: /metrics, /livez, /readyz (with reasons), /statusz (JSON), and
// /loglevel, which PUT /loglevel?level=debug changes. Plain
// HTTP/1.1 on its own thread. The handlers may be called from that thread at any time between Start
// and Stop and must be quick. Port 0 picks a free one.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/base/status.h"

namespace choir {

struct AdminHandlers {
  std::function<std::string()> metrics;  // Prometheus text format
  std::function<Status()> live;          // OK: 200; else 503 with the message
  std::function<Status()> ready;
  std::function<std::string()> status;  // JSON text
};

class AdminServer {
 public:
  // `listen` is host:port. Fails with a message that names the address when it cannot be bound.
  static StatusOr<std::unique_ptr<AdminServer>> Start(const std::string& listen,
                                                      AdminHandlers handlers);
  virtual ~AdminServer() = default;         // stops and joins
  virtual std::string address() const = 0;  // "127.0.0.1:9070", with the real port
};

}  // namespace choir
