// Unary Predict calls as a gRPC C++ program makes them: callback API, closed loop, another row in every call.
// Every answer is checked. Prints one JSON object.
//
// `unary_client HOST:PORT --request FILE [--seconds S] [--warmup-s W] [--connections C] [--in-flight K]
//  [--rows 1,2,3,5] [--event-times 1] [--product-ids 1] [--server-pid PID] [--seed N]`
//   --request      a framed PredictRequest of one packed row; its values are the centre of what is sent
//   --in-flight    calls of each form on each connection
//   --rows         forms: the calls of a form carry that many rows
//   --event-times  a time a row, another one in every call; --product-ids: an id a row, likewise
//   --server-pid   the process whose CPU is counted while calls are measured
#include <grpcpp/grpcpp.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <sstream>
#include <thread>
#include <vector>

#include "client.h"
#include "volcast/v1/inference.grpc.pb.h"

namespace v1 = volcast::v1;

namespace {

constexpr size_t kRowPool = 8192;
constexpr int64_t kFirstEventNs = 1'700'000'000'000'000'000;
constexpr std::chrono::seconds kDeadline{60};
const std::vector<std::string> kProducts = {"BTC-USD", "ETH-USD", "SOL-USD", "DOGE-USD", "AVAX-USD"};

struct Options {
  std::string address, request;
  double seconds = 2, warmup_s = 0.3;
  int connections = 1, in_flight = 32;
  std::vector<int> rows = {1};
  bool event_times = false, product_ids = false;
  pid_t server_pid = 0;
  uint64_t seed = 1;
};

double ProcessCpuSeconds(pid_t pid) {
  clockid_t clock;
  timespec taken{};
  if (pid == 0) return 0;
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &taken) != 0)
    throw std::runtime_error("no process " + std::to_string(pid));
  return taken.tv_sec + taken.tv_nsec / 1e9;
}

// Rows around a centre, made beforehand: a call copies some of them, so the client computes little meanwhile.
class Rows {
 public:
  Rows(const std::string& centre, int most_rows, uint64_t seed) : width_(centre.size() / sizeof(double)) {
    std::vector<double> row(width_);
    std::memcpy(row.data(), centre.data(), centre.size());
    std::mt19937_64 random(seed);
    std::normal_distribution<double> change(1, 0.05);
    values_.reserve((kRowPool + most_rows) * width_);
    for (size_t i = 0; i < kRowPool + most_rows; ++i)
      for (const double value : row) values_.push_back(value * change(random));
  }

  // `count` rows into `to`; their first value is one that no other call has.
  void Copy(std::string& to, int count, uint64_t call) const {
    const double* from = values_.data() + (call * 7919 % kRowPool) * width_;
    std::memcpy(to.data(), from, to.size());
    const double first = *from * (1 + call * 1e-12);
    std::memcpy(to.data(), &first, sizeof first);
  }

 private:
  const size_t width_;
  std::vector<double> values_;
};

// State of a run that all calls share.
struct Run {
  Run(const Options& given, const Rows& sent, uint64_t begin, uint64_t end)
      : options(given), rows(sent), begin_ns(begin), end_ns(end) {}

  const Options& options;
  const Rows& rows;
  const uint64_t begin_ns;
  std::atomic<uint64_t> end_ns;  // 0 after a fault: no call is started any more
  std::atomic<uint64_t> calls{0};
  std::mutex mutex;
  std::condition_variable idle;
  int active = 0;
  std::string fault;

  void Fail(const std::string& text) {
    const std::lock_guard lock(mutex);
    if (fault.empty()) fault = text;
    end_ns = 0;
  }

  void Leave() {
    const std::lock_guard lock(mutex);
    if (--active == 0) idle.notify_all();
  }
};

// One call after another.
class Caller {
 public:
  Caller(Run& run, v1::InferenceService::Stub& stub, const v1::PredictRequest& centre, int rows)
      : run_(run), stub_(stub), request_(centre), rows_(rows) {
    auto* packed = request_.mutable_packed();
    packed->set_row_count(rows);
    packed->mutable_values()->resize(packed->values().size() * rows);
    for (int i = 0; i < rows; ++i) {
      if (run.options.event_times) packed->add_event_times_ns(0);
      if (run.options.product_ids) packed->add_product_ids();
    }
    took_ns_.reserve(1 << 16);
  }

  void Start() {
    Fill(run_.calls.fetch_add(1, std::memory_order_relaxed));
    context_.emplace();
    context_->set_deadline(std::chrono::system_clock::now() + kDeadline);
    response_.Clear();
    sent_ns_ = NowNs();
    stub_.async()->Predict(&*context_, &request_, &response_, [this](grpc::Status status) { Done(status); });
  }

  const std::vector<uint32_t>& took_ns() const { return took_ns_; }
  double least() const { return least_; }
  double most() const { return most_; }

 private:
  void Fill(uint64_t call) {
    auto* packed = request_.mutable_packed();
    run_.rows.Copy(*packed->mutable_values(), rows_, call);
    for (int i = 0; i < packed->event_times_ns_size(); ++i)
      packed->set_event_times_ns(i, kFirstEventNs + static_cast<int64_t>(call) * 1'000'003 + i);
    for (int i = 0; i < packed->product_ids_size(); ++i)
      packed->set_product_ids(i, kProducts[(call + i) % kProducts.size()]);
  }

  void Done(const grpc::Status& status) {
    const uint64_t now_ns = NowNs();
    if (!status.ok()) {
      run_.Fail("status " + std::to_string(status.error_code()) + " " + status.error_message());
    } else if (!Check()) {
      run_.Fail("not the answer: " + response_.ShortDebugString().substr(0, 500));
    } else if (now_ns >= run_.begin_ns && now_ns < run_.end_ns) {
      took_ns_.push_back(static_cast<uint32_t>(std::min<uint64_t>(now_ns - sent_ns_, UINT32_MAX)));
    }
    if (now_ns < run_.end_ns)
      Start();
    else
      run_.Leave();
  }

  bool Check() {
    if (response_.probabilities_size() != rows_) return false;
    for (const double probability : response_.probabilities()) {
      if (!std::isfinite(probability) || probability < 0 || probability > 1) return false;
      least_ = std::min(least_, probability);
      most_ = std::max(most_, probability);
    }
    return true;
  }

  Run& run_;
  v1::InferenceService::Stub& stub_;
  v1::PredictRequest request_;
  const int rows_;
  v1::PredictResponse response_;
  std::optional<grpc::ClientContext> context_;
  uint64_t sent_ns_ = 0;
  std::vector<uint32_t> took_ns_;
  double least_ = 2, most_ = -1;
};

std::unique_ptr<v1::InferenceService::Stub> Connect(const Options& options) {
  grpc::ChannelArguments arguments;
  // Channels with equal arguments share a connection otherwise.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetMaxReceiveMessageSize(-1);
  const auto channel = grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10)))
    throw std::runtime_error("nobody listens on " + options.address);
  return v1::InferenceService::NewStub(channel);
}

void SleepUntil(uint64_t ns) {
  const uint64_t now_ns = NowNs();
  if (ns > now_ns) std::this_thread::sleep_for(std::chrono::nanoseconds(ns - now_ns));
}

struct Figures {
  std::vector<uint32_t> took_ns;
  double least = 2, most = -1, server_cpu_s = 0, client_cpu_s = 0;
};

Figures Measure(const Options& options) {
  v1::PredictRequest centre = ReadRequest(options.request);
  if (centre.packed().row_count() != 1) throw std::runtime_error(options.request + ": expected one packed row");
  const int most_rows = *std::max_element(options.rows.begin(), options.rows.end());
  const Rows rows(centre.packed().values(), most_rows, options.seed);
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs;
  for (int i = 0; i < options.connections; ++i) stubs.push_back(Connect(options));

  const uint64_t begin_ns = NowNs() + static_cast<uint64_t>(options.warmup_s * 1e9);
  const uint64_t end_ns = begin_ns + static_cast<uint64_t>(options.seconds * 1e9);
  Run run(options, rows, begin_ns, end_ns);
  std::vector<std::unique_ptr<Caller>> callers;
  for (const auto& stub : stubs)
    for (int i = 0; i < options.in_flight; ++i)
      for (const int count : options.rows) callers.push_back(std::make_unique<Caller>(run, *stub, centre, count));
  run.active = static_cast<int>(callers.size());
  for (const auto& caller : callers) caller->Start();

  Figures figures;
  SleepUntil(begin_ns);
  const double server_s = ProcessCpuSeconds(options.server_pid), client_s = CpuSeconds();
  SleepUntil(end_ns);
  figures.server_cpu_s = ProcessCpuSeconds(options.server_pid) - server_s;
  figures.client_cpu_s = CpuSeconds() - client_s;
  std::unique_lock lock(run.mutex);
  run.idle.wait(lock, [&] { return run.active == 0; });
  if (!run.fault.empty()) throw std::runtime_error(run.fault);
  for (const auto& caller : callers) {
    figures.took_ns.insert(figures.took_ns.end(), caller->took_ns().begin(), caller->took_ns().end());
    figures.least = std::min(figures.least, caller->least());
    figures.most = std::max(figures.most, caller->most());
  }
  if (figures.took_ns.empty()) throw std::runtime_error("no call ended while calls were measured");
  std::sort(figures.took_ns.begin(), figures.took_ns.end());
  return figures;
}

void Print(const Options& options, const Figures& figures) {
  const auto& took = figures.took_ns;
  const double calls = static_cast<double>(took.size());
  double sum = 0;
  for (const uint32_t ns : took) sum += ns;
  const auto at = [&](double share) { return took[static_cast<size_t>(share * (calls - 1))] / 1e3; };
  std::printf(
      "{\"calls\": %zu, \"calls_per_s\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"mean_us\": %.1f, "
      "\"server_cpu_us\": %.3f, \"client_cpu_us\": %.3f, \"least\": %.17g, \"most\": %.17g}\n",
      took.size(), calls / options.seconds, at(0.5), at(0.99), sum / calls / 1e3, figures.server_cpu_s / calls * 1e6,
      figures.client_cpu_s / calls * 1e6, figures.least, figures.most);
}

std::vector<int> ParseRows(const std::string& text) {
  std::vector<int> rows;
  std::stringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) rows.push_back(std::stoi(part));
  return rows;
}

Options Parse(int argc, char** argv) {
  if (argc < 2 || argc % 2 == 1) throw std::invalid_argument("expected HOST:PORT, then options with a value each");
  Options options;
  options.address = argv[1];
  for (int i = 2; i < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    if (name == "--request") options.request = value;
    else if (name == "--seconds") options.seconds = std::stod(value);
    else if (name == "--warmup-s") options.warmup_s = std::stod(value);
    else if (name == "--connections") options.connections = std::stoi(value);
    else if (name == "--in-flight") options.in_flight = std::stoi(value);
    else if (name == "--rows") options.rows = ParseRows(value);
    else if (name == "--event-times") options.event_times = value == "1";
    else if (name == "--product-ids") options.product_ids = value == "1";
    else if (name == "--server-pid") options.server_pid = std::stoi(value);
    else if (name == "--seed") options.seed = std::stoull(value);
    else throw std::invalid_argument("unknown option " + name);
  }
  const bool rows = !options.rows.empty() && *std::min_element(options.rows.begin(), options.rows.end()) > 0;
  if (options.request.empty() || !rows || options.seconds <= 0 || options.connections < 1 || options.in_flight < 1)
    throw std::invalid_argument("--request is needed; --seconds, --connections, --in-flight, --rows are above 0");
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = Parse(argc, argv);
    Print(options, Measure(options));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "unary_client: %s\n", error.what());
    return 1;
  }
}
