#include "common/rpc/otlp_exporter.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "opentelemetry/trace_export.grpc.pb.h"

namespace choir {
namespace {

namespace otlp = ::opentelemetry::proto::collector::trace::v1;

// Keeps what it is sent; answers only while it may.
class Collector final : public otlp::TraceService::Service {
 public:
  Collector() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~Collector() override {
    Answer(true);
    server_->Shutdown();
  }

  grpc::Status Export(grpc::ServerContext*, const otlp::ExportTraceServiceRequest* request,
                      otlp::ExportTraceServiceResponse* answer) override {
    std::unique_lock lock(mu_);
    ++calls_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return answers_; });
    requests.push_back(*request);
    answer->mutable_partial_success()->set_rejected_spans(rejects);
    changed_.notify_all();
    return grpc::Status::OK;
  }
  void Answer(bool answers) {
    const std::lock_guard lock(mu_);
    answers_ = answers;
    changed_.notify_all();
  }
  void WaitForCall() {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [this] { return calls_ > 0; });
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  std::vector<otlp::ExportTraceServiceRequest> requests;  // read after the exporter's end
  int64_t rejects = 0;

 private:
  int port_ = 0;
  std::mutex mu_;
  std::condition_variable changed_;
  bool answers_ = true;
  int calls_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

TraceOptions Patient(const std::string& endpoint) {
  return {.endpoint = endpoint,
          .timeout = std::chrono::minutes(1),
          .last_timeout = std::chrono::minutes(1)};
}

double Count(Metrics* metrics, const char* outcome) {
  return metrics->Counter("choir_trace_spans_total", "", {{"outcome", outcome}}).Value();
}

Span MakeSpan() {
  return {.context = {"4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", true},
          .parent = "00f067aa0ba902b8",
          .name = "chat",
          .kind = SpanKind::kServer,
          .start_ns = 5,
          .end_ns = 9,
          .attributes = {{"a", "text"},
                         {"b", int64_t{7}},
                         {"c", 0.5},
                         {"d", true},
                         {"e", std::vector<std::string>{"stop", "length"}}},
          .events = {{"first token", 6}},
          .error = "worker_lost"};
}

TEST(OtlpExporter, SendsAllOfASpanBeforeItEnds) {
  Collector collector;
  Metrics metrics("test");
  OtlpExporter::Make(Patient(collector.address()), {"choir-router", "r-1"}, &metrics)
      ->End(MakeSpan());
  ASSERT_EQ(collector.requests.size(), 1u);
  const otlp::ResourceSpans& all = collector.requests[0].resource_spans(0);
  EXPECT_EQ(all.resource().attributes(0).key(), "service.name");
  EXPECT_EQ(all.resource().attributes(0).value().string_value(), "choir-router");
  const otlp::Span& span = all.scope_spans(0).spans(0);
  EXPECT_EQ(span.trace_id().size(), 16u);
  EXPECT_EQ(span.trace_id().substr(0, 2), "\x4b\xf9");
  EXPECT_EQ(span.span_id(), std::string("\x00\xf0\x67\xaa\x0b\xa9\x02\xb7", 8));
  EXPECT_EQ(span.parent_span_id(), std::string("\x00\xf0\x67\xaa\x0b\xa9\x02\xb8", 8));
  EXPECT_EQ(span.kind(), otlp::Span::SPAN_KIND_SERVER);
  EXPECT_EQ(span.start_time_unix_nano(), 5u);
  EXPECT_EQ(span.end_time_unix_nano(), 9u);
  EXPECT_EQ(span.attributes(1).value().int_value(), 7);
  EXPECT_EQ(span.attributes(2).value().double_value(), 0.5);
  EXPECT_TRUE(span.attributes(3).value().bool_value());
  EXPECT_EQ(span.attributes(4).value().array_value().values(1).string_value(), "length");
  EXPECT_EQ(span.events(0).name(), "first token");
  EXPECT_EQ(span.status().code(), otlp::SpanStatus::STATUS_CODE_ERROR);
  EXPECT_EQ(Count(&metrics, "exported"), 1);
  EXPECT_EQ(Count(&metrics, "dropped"), 0);
}

TEST(OtlpExporter, WithoutACollectorThereIsNone) {
  Metrics metrics("test");
  EXPECT_EQ(OtlpExporter::Make({}, {"choir-router", "r-1"}, &metrics), nullptr);
  EXPECT_EQ(metrics.Text().find("choir_trace_spans_total"), std::string::npos);
}

TEST(OtlpExporter, CountsWhatACollectorThatIsGoneDoesNotTake) {
  Metrics metrics("test");
  {
    const auto exporter =
        OtlpExporter::Make(Patient("127.0.0.1:1"), {"choir-router", "r-1"}, &metrics);
    for (int i = 0; i < 3; ++i) exporter->End(MakeSpan());
  }
  EXPECT_EQ(Count(&metrics, "dropped"), 3);
  EXPECT_EQ(Count(&metrics, "exported"), 0);
}

TEST(OtlpExporter, CountsWhatTheCollectorRejects) {
  Collector collector;
  collector.rejects = 1;
  Metrics metrics("test");
  {
    const auto exporter =
        OtlpExporter::Make(Patient(collector.address()), {"choir-router", "r-1"}, &metrics);
    exporter->End(MakeSpan());
  }
  EXPECT_EQ(Count(&metrics, "dropped"), 1);
  EXPECT_EQ(Count(&metrics, "exported"), 0);
}

TEST(OtlpExporter, KeepsNoMoreThanItsQueueWhileTheCollectorIsSlow) {
  Collector collector;
  collector.Answer(false);
  Metrics metrics("test");
  {
    TraceOptions options = Patient(collector.address());
    options.queue_max = 4;
    const auto exporter = OtlpExporter::Make(options, {"choir-router", "r-1"}, &metrics);
    exporter->End(MakeSpan());
    collector.WaitForCall();  // it is on its way, and no longer in the queue
    for (int i = 0; i < 6; ++i) exporter->End(MakeSpan());
    EXPECT_EQ(Count(&metrics, "dropped"), 2);
    collector.Answer(true);
  }
  EXPECT_EQ(Count(&metrics, "dropped"), 2);
  EXPECT_EQ(Count(&metrics, "exported"), 5);
}

}  // namespace
}  // namespace choir
