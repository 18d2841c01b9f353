// Unary gRPC calls at a fixed rate, whatever the server does: an open loop. Prints one JSON object.
//
// `open_loop HOST:PORT --request FILE [--rate N] [--seconds S] [--connections C] ...` (options.h has them all)
// FILE holds one message as on the wire: a 0 byte, its length in 4 bytes, the message.
//
// Latency runs from the instant a call was *due*, not from when it could be written, so a server that stalls
// is charged for every call that waited for it (no coordinated omission). lag_us says how late the generator
// itself was. start_us is when a call's bytes could be given to a connection: what exceeds lag_us is the time
// the server's limits on streams and bytes held it back.
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "connection.h"
#include "options.h"
#include "report.h"

namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr size_t kStartsATurn = 512;  // then answers are read: a backlog of calls due does not starve them

uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * kSecond + static_cast<uint64_t>(now.tv_nsec);
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return time.tv_sec + time.tv_usec / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// The instants at which calls are due, fixed by the seed before the server has said a word.
class Schedule {
 public:
  Schedule(const Options& options, uint64_t began_ns)
      : poisson_(options.arrivals == "poisson"),
        gap_ns_(kSecond / options.rate),
        random_(options.seed),
        due_ns_(static_cast<double>(began_ns)) {}

  uint64_t due_ns() const { return static_cast<uint64_t>(due_ns_); }

  void Advance() { due_ns_ += poisson_ ? gap_(random_) * gap_ns_ : gap_ns_; }

 private:
  const bool poisson_;
  const double gap_ns_;
  std::mt19937_64 random_;
  std::exponential_distribution<double> gap_;
  double due_ns_;
};

class Generator {
 public:
  explicit Generator(const Options& options)
      : options_(options),
        began_ns_(NowNs() + kSecond / 5),  // connecting has this long
        ended_ns_(began_ns_ + static_cast<uint64_t>((options.warmup_s + options.seconds) * kSecond)),
        report_(began_ns_ + static_cast<uint64_t>(options.warmup_s * kSecond), ended_ns_),
        schedule_(options, began_ns_),
        epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    for (size_t i = 0; i < options.connections; ++i) {
      connections_.push_back(std::make_unique<Connection>(options, report_));
      epoll_event event{EPOLLIN, {.u64 = i}};
      epoll_ctl(epoll_, EPOLL_CTL_ADD, connections_[i]->fd(), &event);
    }
    writable_.resize(options.connections);
  }

  void Run() {
    Settle();
    const uint64_t gave_up_ns = ended_ns_ + static_cast<uint64_t>(options_.drain_s * kSecond);
    while (true) {
      const uint64_t now_ns = NowNs();
      Offer(now_ns);
      StartWaiting(now_ns);
      Flush();
      const bool offering = schedule_.due_ns() < ended_ns_;
      if (!offering && (Outstanding() == 0 || now_ns > gave_up_ns)) break;
      if (std::all_of(connections_.begin(), connections_.end(), [](const auto& one) { return one->ended(); }))
        throw std::runtime_error("the server closed every connection");
      Wait(offering ? schedule_.due_ns() : now_ns + kSecond / 100);
    }
    report_.Print(options_, Outstanding(), most_outstanding_, CpuSeconds());
  }

 private:
  void Settle() {
    const auto settled = [](const auto& one) { return one->settled(); };
    while (!std::all_of(connections_.begin(), connections_.end(), settled)) {
      if (NowNs() > began_ns_ + 10 * kSecond) throw std::runtime_error(options_.address + " does not speak HTTP/2");
      Flush();
      Wait(NowNs() + kSecond / 100);
      for (const auto& one : connections_)
        if (one->ended()) throw std::runtime_error(options_.address + " closed a connection at once");
    }
  }

  void Offer(uint64_t now_ns) {
    for (; schedule_.due_ns() <= now_ns && schedule_.due_ns() < ended_ns_; schedule_.Advance()) {
      report_.Offered(schedule_.due_ns(), now_ns);
      if (Outstanding() >= options_.max_outstanding) {
        report_.NotSent(schedule_.due_ns());
      } else {
        waiting_.push_back(schedule_.due_ns());
        most_outstanding_ = std::max(most_outstanding_, Outstanding());
      }
    }
  }

  void StartWaiting(uint64_t now_ns) {
    for (size_t started = 0; !waiting_.empty() && started < kStartsATurn; ++started) {
      Connection* connection = NextFree();
      if (connection == nullptr) return;
      report_.Started(waiting_.front(), now_ns);
      connection->Start(waiting_.front());
      waiting_.pop_front();
      ++in_flight_;
    }
  }

  Connection* NextFree() {
    for (size_t tried = 0; tried < connections_.size(); ++tried) {
      Connection& one = *connections_[turn_++ % connections_.size()];
      if (one.CanStart()) return &one;
    }
    return nullptr;
  }

  void Flush() {
    for (size_t i = 0; i < connections_.size(); ++i) {
      Connection& one = *connections_[i];
      if (one.wants_write()) one.Flush();
      if (one.wants_write() == writable_[i] || one.ended()) continue;
      writable_[i] = one.wants_write();
      epoll_event event{writable_[i] ? EPOLLIN | EPOLLOUT : EPOLLIN, {.u64 = i}};
      epoll_ctl(epoll_, EPOLL_CTL_MOD, one.fd(), &event);
    }
  }

  // Until a socket has something or the next call is due.
  void Wait(uint64_t until_ns) {
    const uint64_t now_ns = NowNs();
    SleepOutTick();
    const bool at_once = options_.spin || options_.tick_us > 0 || until_ns <= now_ns || (!waiting_.empty() && CanStartAny());
    const uint64_t left_ns = at_once ? 0 : until_ns - now_ns;
    const timespec timeout{static_cast<time_t>(left_ns / kSecond), static_cast<long>(left_ns % kSecond)};
    epoll_event events[64];
    const int ready = epoll_pwait2(epoll_, events, 64, &timeout, nullptr);
    for (int i = 0; i < ready; ++i) {
      Connection& one = *connections_[events[i].data.u64];
      one.Receive();
      if (one.ended()) epoll_ctl(epoll_, EPOLL_CTL_DEL, one.fd(), nullptr);
    }
    in_flight_ = 0;
    for (const auto& one : connections_) in_flight_ += one->outstanding();
  }

  // With a tick, calls and answers are handled in bunches: less exact, and several times cheaper.
  void SleepOutTick() {
    if (options_.tick_us == 0) return;
    tick_ns_ = std::max(tick_ns_ + options_.tick_us * 1000, NowNs());
    const timespec at{static_cast<time_t>(tick_ns_ / kSecond), static_cast<long>(tick_ns_ % kSecond)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr);
  }

  bool CanStartAny() const {
    return std::any_of(connections_.begin(), connections_.end(), [](const auto& one) { return one->CanStart(); });
  }

  size_t Outstanding() const { return in_flight_ + waiting_.size(); }

  const Options& options_;
  const uint64_t began_ns_, ended_ns_;
  Report report_;
  Schedule schedule_;
  const int epoll_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<bool> writable_;
  std::deque<uint64_t> waiting_;  // due, and not allowed on the wire yet
  size_t in_flight_ = 0, most_outstanding_ = 0, turn_ = 0;
  uint64_t tick_ns_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = ParseOptions(argc, argv);
    prctl(PR_SET_TIMERSLACK, 1);  // the default rounds each sleep up by 50 us
    Generator(options).Run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "open_loop: %s\n", error.what());
    return 1;
  }
}
