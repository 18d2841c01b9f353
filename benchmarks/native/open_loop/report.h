// What became of the calls, counted by the second in which each was due.
#pragma once

#include <array>
#include <cstdint>

#include "histogram.h"
#include "options.h"

constexpr int kNoStatus = -1;  // ended without a grpc-status: reset, or not gRPC
constexpr int kResourceExhausted = 8;

class Report {
 public:
  // Calls due from `began_ns` until `ended_ns` count, whenever they are answered.
  Report(uint64_t began_ns, uint64_t ended_ns) : began_ns_(began_ns), ended_ns_(ended_ns) {}

  void Offered(uint64_t due_ns, uint64_t now_ns);
  void NotSent(uint64_t due_ns);  // the limit on outstanding calls was reached
  void Started(uint64_t due_ns, uint64_t now_ns);
  void Answered(uint64_t due_ns, uint64_t now_ns, int status, bool well_formed);
  void Lost(uint64_t due_ns);  // its connection ended first

  void Print(const Options& options, size_t unanswered, size_t most_outstanding, double cpu_s) const;

 private:
  bool Counts(uint64_t due_ns) const { return due_ns >= began_ns_ && due_ns < ended_ns_; }

  const uint64_t began_ns_, ended_ns_;
  uint64_t offered_ = 0, not_sent_ = 0, malformed_ = 0, no_status_ = 0, lost_ = 0, good_in_time_ = 0;
  std::array<uint64_t, 17> by_status_{};
  Histogram ok_, refused_, lag_, start_;
};
