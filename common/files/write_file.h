// Small files that appear whole or not at all: written beside their place and renamed into it. Any
// thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "common/base/status.h"

namespace choir {

// All of `text`, over interruptions and short writes; false: errno says why.
bool WriteAll(int fd, std::string_view text);
// What was made or renamed in a directory is on the disk when it returns.
Status SyncDirectory(const std::string& dir);

struct WriteFileOptions {
  mode_t mode = 0600;
  bool durable = false;  // on the disk when it returns
  // A file that it replaces gives it its group (and owner, for root) and what these two may do.
  bool like_replaced = false;
};
// Unavailable, with the path and the reason; the file that was there is then untouched.
Status WriteFileWhole(const std::string& path, std::string_view text,
                      WriteFileOptions options = {});

}  // namespace choir
