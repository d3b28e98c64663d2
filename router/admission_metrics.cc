#include "router/admission_metrics.h"

namespace choir {

AdmissionMetrics::AdmissionMetrics(Metrics* metrics) {
  for (const AdmissionClass c : kAdmissionClasses) {
    const std::string name = AdmissionClassName(c);
    const MetricLabels labels = {{"class", name}};
    Class& of = classes_[static_cast<size_t>(c)];
    of.depth = &metrics->Gauge("choir_queue_depth", "Requests that wait for their turn.", labels);
    of.running = &metrics->Gauge("choir_admission_running",
                                 "Sequences of requests that were let run.", labels);
    of.waiting_tokens = &metrics->Gauge(
        "choir_queue_tokens", "Work that waits: prompts and the most they ask for.", labels);
    of.wait_seconds =
        &metrics->Histogram("choir_admission_wait_seconds",
                            "From being ready to run to being let run, of those that were.",
                            Metrics::RequestSeconds(), labels);
    of.aged = &metrics->Counter("choir_admission_aged_total",
                                "Requests let run before higher classes, because theirs had waited "
                                "as long as its ageing says.",
                                labels);
    for (const char* reason : {"queue", "queue_timeout", "deadline"}) {
      refused_["class:" + name + "." + reason] =
          &metrics->Counter("choir_admission_refused_total",
                            "Requests refused for the queue of their class, by what refused them.",
                            {{"class", name}, {"reason", reason}});
    }
  }
}

void AdmissionMetrics::OnTurn(const Permit& permit, double waited_seconds) {
  Class& of = classes_[static_cast<size_t>(permit.admission_class())];
  of.wait_seconds->Observe(waited_seconds);
  if (permit.aged()) of.aged->Increment();
}

void AdmissionMetrics::OnRefused(const std::string& rule) {
  const auto it = refused_.find(rule);
  if (it != refused_.end()) it->second->Increment();
}

void AdmissionMetrics::Publish(const AdmissionStatus& status) {
  for (size_t i = 0; i < classes_.size(); ++i) {
    classes_[i].depth->Set(static_cast<double>(status.classes[i].waiting));
    classes_[i].running->Set(static_cast<double>(status.classes[i].running_sequences));
    classes_[i].waiting_tokens->Set(static_cast<double>(status.classes[i].waiting_tokens));
  }
}

}  // namespace choir
