// What to offer, to whom, for how long.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

struct Options {
  std::string address;
  std::string path = "/volcast.v1.InferenceService/Predict";
  std::string body;  // one message as on the wire, with its five bytes in front
  std::string arrivals = "poisson";
  std::vector<std::pair<std::string, std::string>> headers;  // added to each call
  double rate = 1000, seconds = 5, warmup_s = 0.5, drain_s = 5;
  uint64_t seed = 1;
  size_t connections = 1, max_outstanding = 20'000;
  unsigned timeout_ms = 0;  // 0: calls have no deadline
  uint64_t tick_us = 0;     // above 0: wakes this often only, so a latency may be this much too long
  bool spin = false;        // never sleep: a core for the exactest timing
};

// Throws std::invalid_argument with what was expected.
Options ParseOptions(int argc, char** argv);
