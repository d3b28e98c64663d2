// Watches one small file by polling its stamp (Kubernetes replaces mounted files by renaming,
// editors write in place: both are seen) and hands its whole text to `read` when it changed. Poll()
// may be used without the thread; read is called by one thread at a time.
#pragma once

#include <sys/stat.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "common/base/clock.h"
#include "common/base/status.h"

namespace choir {

// The whole file, at most `bytes_max` long; the error names the path.
StatusOr<std::string> ReadSmallFile(const std::string& path, uint64_t bytes_max = 16 << 20);

class FileWatch {
 public:
  // `read` says whether the text is good; after an error the file is tried again at each change,
  // and the error is logged once.
  FileWatch(std::string path, std::function<Status(const std::string& text)> read);
  ~FileWatch();  // stops and joins

  // Reads when the stamp differs from the last one. OK when unchanged or read.
  Status Poll();
  // Polls on an own thread from now on.
  void Start(Duration interval);

 private:
  struct Stamp {
    uint64_t inode = 0;
    int64_t size = -1;
    int64_t mtime_ns = 0;
    int64_t ctime_ns = 0;
    bool operator==(const Stamp&) const = default;
  };
  void Loop(Duration interval);

  const std::string path_;
  const std::function<Status(const std::string&)> read_;
  Stamp last_;
  Status result_;

  std::mutex mu_;  // guards stop_
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace choir
