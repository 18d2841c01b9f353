// What the load generators on gRPC C++ share: clocks, and the request that a file holds.
#pragma once

#include <sys/resource.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

#include "volcast/v1/inference.pb.h"

inline uint64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// CPU that this process took so far.
inline double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return time.tv_sec + time.tv_usec / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// The file holds one message as on the wire: a 0 byte, its length in 4 bytes, the message.
inline volcast::v1::PredictRequest ReadRequest(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string body{std::istreambuf_iterator<char>(file), {}};
  volcast::v1::PredictRequest request;
  if (body.size() < 5 || !request.ParseFromArray(body.data() + 5, static_cast<int>(body.size() - 5)))
    throw std::runtime_error(path + " holds no framed PredictRequest");
  return request;
}
