#include "common/rpc/otlp_exporter.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <pthread.h>

#include <algorithm>
#include <utility>

#include "common/base/log.h"
#include "common/base/version.h"
#include "opentelemetry/trace_export.grpc.pb.h"

namespace choir {
namespace {

namespace otlp = ::opentelemetry::proto::collector::trace::v1;

constexpr size_t kBatchMax = 512;
constexpr auto kInterval = std::chrono::milliseconds(500);

std::string FromHex(const std::string& hex) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(digit(hex[i]) * 16 + digit(hex[i + 1]));
  }
  return bytes;
}

void Fill(const SpanValue& value, otlp::AnyValue* to) {
  if (const auto* text = std::get_if<std::string>(&value)) to->set_string_value(*text);
  if (const auto* n = std::get_if<int64_t>(&value)) to->set_int_value(*n);
  if (const auto* x = std::get_if<double>(&value)) to->set_double_value(*x);
  if (const auto* b = std::get_if<bool>(&value)) to->set_bool_value(*b);
  if (const auto* list = std::get_if<std::vector<std::string>>(&value)) {
    auto* array = to->mutable_array_value();
    for (const std::string& text : *list) array->add_values()->set_string_value(text);
  }
}

void Fill(const Span& span, otlp::Span* to) {
  to->set_trace_id(FromHex(span.context.trace_id));
  to->set_span_id(FromHex(span.context.span_id));
  to->set_parent_span_id(FromHex(span.parent));
  to->set_name(span.name);
  to->set_kind(span.kind == SpanKind::kServer   ? otlp::Span::SPAN_KIND_SERVER
               : span.kind == SpanKind::kClient ? otlp::Span::SPAN_KIND_CLIENT
                                                : otlp::Span::SPAN_KIND_INTERNAL);
  to->set_start_time_unix_nano(static_cast<uint64_t>(span.start_ns));
  to->set_end_time_unix_nano(static_cast<uint64_t>(span.end_ns));
  for (const SpanAttribute& attribute : span.attributes) {
    otlp::KeyValue* pair = to->add_attributes();
    pair->set_key(attribute.name);
    Fill(attribute.value, pair->mutable_value());
  }
  for (const auto& [name, when] : span.events) {
    otlp::Span::Event* event = to->add_events();
    event->set_name(name);
    event->set_time_unix_nano(static_cast<uint64_t>(when));
  }
  if (span.error.empty()) return;
  to->mutable_status()->set_code(otlp::SpanStatus::STATUS_CODE_ERROR);
  to->mutable_status()->set_message(span.error);
}

prometheus::Counter& SpanCounter(Metrics* metrics, const char* outcome) {
  return metrics->Counter("choir_trace_spans_total",
                          "Spans, by whether the collector took them or they were given up.",
                          {{"outcome", outcome}});
}

}  // namespace

struct OtlpExporter::Stub {
  std::unique_ptr<otlp::TraceService::Stub> service;
};

std::unique_ptr<OtlpExporter> OtlpExporter::Make(const TraceOptions& options, Service service,
                                                 Metrics* metrics) {
  if (options.endpoint.empty()) return nullptr;
  return std::unique_ptr<OtlpExporter>(new OtlpExporter(options, std::move(service), metrics));
}

OtlpExporter::OtlpExporter(const TraceOptions& options, Service service, Metrics* metrics)
    : options_(options),
      service_(std::move(service)),
      stub_(new Stub{otlp::TraceService::NewStub(
          grpc::CreateChannel(options.endpoint, grpc::InsecureChannelCredentials()))}),
      exported_(SpanCounter(metrics, "exported")),
      dropped_(SpanCounter(metrics, "dropped")) {
  thread_ = std::thread([this] { Run(); });
}

OtlpExporter::~OtlpExporter() {
  {
    std::unique_lock lock(mu_);
    stopping_ = true;
    wake_.notify_all();
    wake_.wait_for(lock, options_.last_timeout, [this] { return sending_ == nullptr; });
    if (sending_ != nullptr) sending_->TryCancel();
  }
  thread_.join();
}

void OtlpExporter::End(Span span) {
  std::unique_lock lock(mu_);
  if (queue_.size() >= static_cast<size_t>(options_.queue_max)) {
    lock.unlock();
    return dropped_.Increment();
  }
  queue_.push_back(std::move(span));
  const bool wake = queue_.size() == kBatchMax;
  lock.unlock();
  if (wake) wake_.notify_one();
}

void OtlpExporter::Run() {
  pthread_setname_np(pthread_self(), "otlp");
  while (true) {
    std::vector<Span> taken;
    bool last = false;
    {
      std::unique_lock lock(mu_);
      wake_.wait_for(lock, kInterval, [this] { return stopping_ || queue_.size() >= kBatchMax; });
      taken = std::exchange(queue_, {});
      last = stopping_;
    }
    for (size_t begin = 0; begin < taken.size(); begin += kBatchMax) {
      const auto from = taken.begin() + static_cast<std::ptrdiff_t>(begin);
      const auto to =
          taken.begin() + static_cast<std::ptrdiff_t>(std::min(begin + kBatchMax, taken.size()));
      const bool answered = Send({std::make_move_iterator(from), std::make_move_iterator(to)},
                                 last ? options_.last_timeout : options_.timeout);
      if (last && !answered) return;  // the process is ending
    }
    if (last) return;
  }
}

bool OtlpExporter::Send(std::vector<Span> batch, Duration timeout) {
  otlp::ExportTraceServiceRequest request;
  otlp::ResourceSpans* all = request.add_resource_spans();
  const auto describe = [all](const char* key, const std::string& value) {
    otlp::KeyValue* pair = all->mutable_resource()->add_attributes();
    pair->set_key(key);
    pair->mutable_value()->set_string_value(value);
  };
  describe("service.name", service_.name);
  describe("service.instance.id", service_.instance);
  describe("service.version", kVersion);
  otlp::ScopeSpans* scope = all->add_scope_spans();
  scope->mutable_scope()->set_name("choir");
  scope->mutable_scope()->set_version(kVersion);
  for (const Span& span : batch) Fill(span, scope->add_spans());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::duration_cast<std::chrono::system_clock::duration>(timeout));
  otlp::ExportTraceServiceResponse answer;
  const auto sending = [this](grpc::ClientContext* now) {
    const std::lock_guard lock(mu_);
    sending_ = now;
    wake_.notify_all();
  };
  sending(&context);
  const grpc::Status status = stub_->service->Export(&context, request, &answer);
  sending(nullptr);
  const auto rejected = static_cast<double>(
      status.ok() ? std::clamp<int64_t>(answer.partial_success().rejected_spans(), 0,
                                        static_cast<int64_t>(batch.size()))
                  : static_cast<int64_t>(batch.size()));
  dropped_.Increment(rejected);
  exported_.Increment(static_cast<double>(batch.size()) - rejected);
  if (status.ok() == failing_) {  // news
    failing_ = !status.ok();
    if (failing_) {
      CHOIR_LOG(warn, "spans are dropped: the collector: {}", status.error_message());
    } else {
      CHOIR_LOG(info, "the collector takes spans again");
    }
  }
  return status.ok();
}

}  // namespace choir
