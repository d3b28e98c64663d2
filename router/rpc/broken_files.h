// Files of the configuration whose new content is not in force. Any thread.
#pragma once

#include <mutex>
#include <set>
#include <string>

#include "common/base/status.h"

namespace choir {

class BrokenFiles {
 public:
  void OnRead(const std::string& file, const Status& status) {
    const std::lock_guard lock(mu_);
    if (status.ok()) {
      files_.erase(file);
    } else {
      files_.insert(file);
    }
  }
  bool none() const {
    const std::lock_guard lock(mu_);
    return files_.empty();
  }

 private:
  mutable std::mutex mu_;
  std::set<std::string> files_;
};

}  // namespace choir
