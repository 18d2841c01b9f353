#include "report.h"

#include <cstdio>
#include <string>

void Report::Offered(uint64_t due_ns, uint64_t now_ns) {
  if (!Counts(due_ns)) return;
  ++offered_;
  lag_.Add(now_ns - due_ns);
}

void Report::NotSent(uint64_t due_ns) { not_sent_ += Counts(due_ns); }

void Report::Lost(uint64_t due_ns) { lost_ += Counts(due_ns); }

void Report::Started(uint64_t due_ns, uint64_t now_ns) {
  if (Counts(due_ns)) start_.Add(now_ns - due_ns);
}

void Report::Answered(uint64_t due_ns, uint64_t now_ns, int status, bool well_formed) {
  const uint64_t took_ns = now_ns - due_ns;
  // Goodput is what arrives within the window, of whatever was due: a backlog answered late is not good.
  if (status == 0 && well_formed && now_ns >= began_ns_ && now_ns < ended_ns_) ++good_in_time_;
  if (!Counts(due_ns)) return;
  if (status == 0 && !well_formed) {
    ++malformed_;
  } else if (status < 0 || status > 16) {
    ++no_status_;
  } else {
    ++by_status_[static_cast<size_t>(status)];
    if (status == 0) ok_.Add(took_ns);
    if (status == kResourceExhausted) refused_.Add(took_ns);
  }
}

void Report::Print(const Options& options, size_t unanswered, size_t most_outstanding, double cpu_s) const {
  std::string others;
  for (size_t status = 1; status < by_status_.size(); ++status) {
    if (status == kResourceExhausted || by_status_[status] == 0) continue;
    others += (others.empty() ? "\"" : ", \"") + std::to_string(status) + "\": " + std::to_string(by_status_[status]);
  }
  std::printf(
      "{\"rate\": %.1f, \"arrivals\": \"%s\", \"seconds\": %g, \"connections\": %zu, \"offered\": %lu, "
      "\"not_sent\": %lu, \"ok\": %lu, \"resource_exhausted\": %lu, \"others\": {%s}, \"no_status\": %lu, "
      "\"malformed\": %lu, \"lost\": %lu, \"unanswered\": %zu, \"most_outstanding\": %zu, \"goodput_per_s\": %.1f, ",
      options.rate, options.arrivals.c_str(), options.seconds, options.connections, offered_, not_sent_,
      by_status_[0], by_status_[kResourceExhausted], others.c_str(), no_status_, malformed_, lost_, unanswered,
      most_outstanding, good_in_time_ / options.seconds);
  std::printf(
      "\"ok_us\": {\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p99.9\": %.1f, \"mean\": %.1f, \"max\": %.1f}, "
      "\"refused_us\": {\"p50\": %.1f, \"p99\": %.1f}, \"lag_us\": {\"p50\": %.1f, \"p99\": %.1f, "
      "\"max\": %.1f}, \"start_us\": {\"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f}, \"generator_cpu_s\": %.3f}\n",
      ok_.QuantileUs(0.5), ok_.QuantileUs(0.9), ok_.QuantileUs(0.99), ok_.QuantileUs(0.999), ok_.mean_us(),
      ok_.max_us(), refused_.QuantileUs(0.5), refused_.QuantileUs(0.99), lag_.QuantileUs(0.5),
      lag_.QuantileUs(0.99), lag_.max_us(), start_.QuantileUs(0.5), start_.QuantileUs(0.99), start_.max_us(), cpu_s);
}
