// What a gateway serves where. Private to gateway/.
#pragma once

#include <string>

#include "gateway/gateway_service.h"

namespace choir {

inline constexpr char kOtherRoute[] = "other";  // metrics' label of what has no route

enum class RouteKind { kChat, kCompletions, kModels, kModel, kStatus, kExplain, kStream };

struct GatewayService::Route {
  RouteKind kind;
  bool deepseek;                 // 422 for parameters
  const char* name;              // metrics' label
  const char* method = nullptr;  // nullptr: no such path
  std::string id = "";           // of kModel the model's, of kStream the request's
};

struct GatewayService::Answer {
  int code = 499;          // until something was answered
  std::string request_id;  // the router's, once it accepted or refused
  std::string error = {};  // its code; empty: none
  OpenSpan span = {};
  std::string trace_parent = {};  // what the router is given
};

}  // namespace choir
