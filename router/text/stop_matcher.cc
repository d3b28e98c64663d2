#include "router/text/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace choir {

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& text : stops) {
    if (text.empty()) continue;
    Stop stop{std::move(text), {}, 0};
    stop.fallback.assign(stop.text.size() + 1, 0);
    size_t border = 0;
    for (size_t i = 1; i < stop.text.size(); ++i) {
      while (border > 0 && stop.text[i] != stop.text[border]) border = stop.fallback[border];
      if (stop.text[i] == stop.text[border]) ++border;
      stop.fallback[i + 1] = static_cast<uint32_t>(border);
    }
    stops_.push_back(std::move(stop));
  }
}

StopMatcher::Result StopMatcher::Push(std::string_view text) {
  if (complete_ >= 0) return {"", true, stops_[complete_].text};
  for (size_t i = 0; i < text.size(); ++i) {
    for (size_t k = 0; k < stops_.size(); ++k) {
      Stop& stop = stops_[k];
      while (stop.matched > 0 && text[i] != stop.text[stop.matched]) {
        stop.matched = stop.fallback[stop.matched];
      }
      if (text[i] == stop.text[stop.matched]) ++stop.matched;
      if (stop.matched < stop.text.size()) continue;
      if (complete_ < 0 || stop.text.size() > stops_[complete_].text.size()) {
        complete_ = static_cast<int>(k);
      }
    }
    if (complete_ >= 0) {
      const std::string& matched = stops_[complete_].text;
      held_.append(text.substr(0, i + 1));
      held_.resize(held_.size() - matched.size());
      return {std::exchange(held_, ""), true, matched};
    }
  }
  held_.append(text);
  size_t uncertain = 0;
  for (const Stop& stop : stops_) uncertain = std::max(uncertain, stop.matched);
  Result result;
  result.text = held_.substr(0, held_.size() - uncertain);
  held_.erase(0, held_.size() - uncertain);
  return result;
}

std::string StopMatcher::Flush() {
  for (Stop& stop : stops_) stop.matched = 0;
  return std::exchange(held_, "");
}

}  // namespace choir
