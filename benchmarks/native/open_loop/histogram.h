// Latencies in log-linear buckets: any range in fixed memory, to within 0.4 %.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

class Histogram {
 public:
  void Add(uint64_t ns) {
    ++buckets_[Index(ns)];
    ++count_;
    sum_ += ns;
    max_ = std::max(max_, ns);
  }

  uint64_t count() const { return count_; }
  double mean_us() const { return count_ == 0 ? 0 : sum_ / count_ / 1e3; }
  double max_us() const { return max_ / 1e3; }

  // The value below which a share of the entries lie, in us; 0 where there are none.
  double QuantileUs(double share) const {
    uint64_t left = static_cast<uint64_t>(share * count_);
    for (size_t i = 0; i < buckets_.size(); ++i) {
      if (buckets_[i] > left) return std::min(Middle(i), static_cast<double>(max_)) / 1e3;
      left -= buckets_[i];
    }
    return max_us();
  }

 private:
  static constexpr int kBits = 7;  // 128 buckets an octave: half a bucket is 0.4 %
  static constexpr uint64_t kSub = 1u << kBits;

  static size_t Index(uint64_t ns) {
    if (ns < kSub) return ns;
    const int shift = std::bit_width(ns) - 1 - kBits;
    return (static_cast<size_t>(shift) + 1) * kSub + ((ns >> shift) - kSub);
  }

  static double Middle(size_t index) {
    if (index < kSub) return static_cast<double>(index);
    const int shift = static_cast<int>(index / kSub) - 1;
    return (static_cast<double>(kSub + index % kSub) + 0.5) * static_cast<double>(uint64_t{1} << shift);
  }

  std::array<uint64_t, (65 - kBits) * kSub> buckets_{};
  uint64_t count_ = 0, max_ = 0;
  double sum_ = 0;
};
