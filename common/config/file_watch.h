// Watches one small file by polling its stamp (Kubernetes replaces mounted files by renaming,
// editors write in place: both are seen) and hands its whole text to `read` when it changed. Poll()
// may be used without the thread; read is called by one thread at a time.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "common/base/clock.h"
#include "common/base/status.h"

namespace choir {

// The whole file, at most `bytes_max` long; the error names the path.
StatusOr<std::string> ReadSmallFile(const std::string& path, uint64_t bytes_max = 16 << 20);

// What changes when a file is written or replaced; size -1 when there is none.
struct FileStamp {
  uint64_t inode = 0;
  int64_t size = -1;
  int64_t mtime_ns = 0;
  int64_t ctime_ns = 0;
  bool operator==(const FileStamp&) const = default;
};
FileStamp StampOf(const std::string& path);

class FileWatch {
 public:
  // `read` says whether the text is good; after an error the file is tried again at each change.
  FileWatch(std::string path, std::function<Status(const std::string& text)> read);
  ~FileWatch();  // stops and joins

  // Hears of each later attempt, also of the file's being gone; set before Start.
  void OnResult(std::function<void(const Status&)> hook) { on_result_ = std::move(hook); }

  // Reads when the stamp differs from the last one. OK when unchanged or read. Of an error the
  // caller tells.
  Status Poll();
  // Polls on an own thread from now on. What was read by then is in force: an error is logged,
  // once, and changes nothing.
  void Start(Duration interval);

 private:
  void Loop(Duration interval);

  const std::string path_;
  const std::function<Status(const std::string&)> read_;
  std::function<void(const Status&)> on_result_;
  FileStamp last_;
  Status result_;

  std::mutex mu_;  // guards stop_
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace choir
