// HTTP/1.x requests from untrusted bytes: Beast's parser behind plain values, with the checks that
// Beast leaves to us (bare line ends, folded lines, fields given twice, length with
// transfer-encoding, forms of the target). Pure; one thread.
#pragma once

#include <string>
#include <string_view>

#include "gateway/http/http_types.h"

namespace choir {

// Looks at a header while it arrives, so that what can never become a good one is refused at once
// and not when its time is up.
class HeadScanner {
 public:
  // `text` is all that came so far; each call goes on where the last one stopped.
  HttpError Scan(std::string_view text, const HttpLimits& limits);

 private:
  HttpError LineEnd(std::string_view text, const HttpLimits& limits);

  size_t at_ = 0;          // the next byte to look at
  size_t line_begin_ = 0;  // of the line that `at_` is in
  int64_t lines_ = 0;      // complete, the request line included, the empty one not
};

HttpError HeaderTooLarge(const HttpLimits& limits);  // 431, with the limit
// `text` is the header with its empty line. REQUIRES: it ends in "\r\n\r\n".
HttpError ParseHead(std::string_view text, const HttpLimits& limits, HttpHead* head);

std::string_view ReasonPhrase(int status);

}  // namespace choir
