#include "gateway/stream_answer.h"

#include <cmath>
#include <utility>

namespace choir {

HttpFields ErrorFields(const RestError& error) {
  HttpFields fields = {{"content-type", "application/json"}};
  if (error.retry_after_seconds > 0) {
    fields.emplace_back("retry-after",
                        std::to_string(static_cast<int64_t>(std::ceil(error.retry_after_seconds))));
  }
  if (!error.allow.empty()) fields.emplace_back("allow", error.allow);
  if (error.http == 401) fields.emplace_back("www-authenticate", "Bearer");
  if (!error.audit_receipt.empty()) fields.emplace_back("x-choir-audit", error.audit_receipt);
  fields.insert(fields.end(), error.limit_headers.begin(), error.limit_headers.end());
  return fields;
}

HttpFields AcceptedFields(const EdgeAcceptedInfo& info, const char* content_type) {
  HttpFields fields = {{"content-type", content_type}, {"x-request-id", info.request_id}};
  if (!info.audit_receipt.empty()) fields.emplace_back("x-choir-audit", info.audit_receipt);
  if (info.recalled) fields.emplace_back("x-choir-cache", "hit");
  fields.insert(fields.end(), info.headers.begin(), info.headers.end());
  return fields;
}

RestError RouterError(const Upstream& upstream, const ApiRequest& request) {
  RestError error = upstream.error();
  if (!request.chat) NameCompletionFields(&error);
  return error;
}

boost::asio::awaitable<int> StreamAnswer(HttpExchange& exchange, Upstream& upstream,
                                         const ApiRequest& request, StreamStart start,
                                         GatewayMetrics* metrics) {
  StreamWriter writer(request, {upstream.accepted_info().request_id, request.model, start.created},
                      std::move(start.position));
  HttpFields fields = AcceptedFields(upstream.accepted_info(), "text/event-stream; charset=utf-8");
  fields.emplace_back("cache-control", "no-cache");
  fields.emplace_back("x-accel-buffering", "no");  // nginx in front must not collect the stream
  if (!co_await exchange.StartStream(200, std::move(fields))) co_return 499;
  while (true) {
    const bool finished = upstream.done(), failed = upstream.failed();
    const uint64_t before = writer.events();
    std::string bytes;
    for (const ApiDelta& delta : upstream.TakeDeltas()) bytes += writer.Delta(delta);
    if (failed) bytes += StreamWriter::Error(RouterError(upstream, request));
    if (finished) bytes += writer.Done(upstream.usage());
    if (upstream.client_gone()) co_return 499;
    const bool ends = failed || finished;  // by an event that the writer does not count
    metrics->SseEvents(static_cast<double>(writer.events() - before + (ends ? 1 : 0)));
    if (ends) {
      if (!co_await exchange.EndStream(std::move(bytes))) co_return 499;
      co_return failed ? upstream.error().http : 200;
    }
    if (!co_await exchange.WriteStream(std::move(bytes))) co_return 499;
    upstream.Took();
    if (co_await upstream.Wait(start.keep_alive_interval)) continue;
    if (!co_await exchange.WriteStream(StreamWriter::KeepAlive())) co_return 499;
  }
}

}  // namespace choir
