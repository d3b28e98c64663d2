#include "worker/pod_name.h"

#include <charconv>

namespace choir {

StatusOr<PodPlace> PlaceOfPod(const std::string& pod, int64_t ranks) {
  const size_t dot = pod.find('.');
  const std::string name = pod.substr(0, dot);
  const size_t dash = name.rfind('-');
  int64_t index = -1;
  if (dash != std::string::npos && dash != 0) {
    const char* end = name.data() + name.size();
    const auto [rest, error] = std::from_chars(name.data() + dash + 1, end, index);
    if (error != std::errc() || rest != end) index = -1;
  }
  if (index < 0 || dot == std::string::npos || dot + 1 == pod.size()) {
    return InvalidArgument(
        "--pod {}: must be the pod's name, which ends in its number, and the service by which "
        "others find it: choir-worker-0.choir-worker",
        pod);
  }
  const int64_t group = index / ranks;
  return PodPlace{
      .group = group,
      .rank = index % ranks,
      .leader = fmt::format("{}-{}{}", name.substr(0, dash), group * ranks, pod.substr(dot))};
}

}  // namespace choir
