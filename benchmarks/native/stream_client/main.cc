// One StreamPredict stream under measurement; every answer is checked. Prints one JSON object.
//
// `stream_client HOST:PORT MODE --request FILE [--count N] [--warmup N] [--rows R] [--in-flight K]
//  [--coalesce 1]`
//   pingpong   one message in flight
//   pipelined  K in flight; 0: as many as gRPC's flow control lets through
//   rows       as pipelined, and counts rows
// With --coalesce messages go out in bunches: half of K at a time, handed to the socket together. About half
// the CPU a message; without it the client may be what limits the rate.
// FILE holds a PredictRequest of R rows as on the wire: a 0 byte, its length in 4 bytes, the message.
//
// Reads and writes are two operations on one completion queue, driven by one thread: no hand-over between
// threads is measured, and the client leaves as much of the machine to the server as gRPC C++ allows.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "client.h"
#include "volcast/v1/inference.grpc.pb.h"

namespace v1 = volcast::v1;

namespace {

constexpr std::chrono::seconds kDeadline{120};

struct Options {
  std::string address, mode, request;
  uint64_t count = 10'000, warmup = 1'000, in_flight = 32;
  int rows = 1;
  bool coalesce = false;
};

class Load {
 public:
  explicit Load(const Options& options)
      : total_(options.count + options.warmup),
        warmup_(options.warmup),
        window_(options.in_flight == 0 ? total_ : options.in_flight),
        rows_(options.rows),
        coalesce_(options.coalesce),
        sent_ns_(total_),
        took_ns_(total_) {
    *frame_.mutable_request() = ReadRequest(options.request);
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    const auto channel =
        grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(), arguments);
    if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10)))
      throw std::runtime_error("nobody listens on " + options.address);
    context_.set_deadline(std::chrono::system_clock::now() + kDeadline);
    stub_ = v1::InferenceService::NewStub(channel);
  }

  void Run() {
    stream_ = stub_->AsyncStreamPredict(&context_, &queue_, Tag(kStart));
    void* tag = nullptr;
    bool ok = false;
    while (received_ < total_ && queue_.Next(&tag, &ok)) {
      if (!ok) Fail();
      switch (reinterpret_cast<intptr_t>(tag)) {
        case kStart:
          stream_->Read(&answer_, Tag(kRead));
          WriteNext();
          break;
        case kRead:
          Check();
          if (received_ < total_) stream_->Read(&answer_, Tag(kRead));
          if (!writing_) WriteNext();
          break;
        case kWrite:
          writing_ = false;
          WriteNext();
          break;
      }
    }
    ended_ns_ = NowNs();
    cpu_s_ = CpuSeconds() - cpu_began_s_;
    Close();
  }

  void Print(const Options& options) {
    std::vector<uint64_t> took(took_ns_.begin() + warmup_, took_ns_.end());
    std::sort(took.begin(), took.end());
    double sum = 0;
    for (const uint64_t ns : took) sum += ns;
    const auto at = [&](double share) { return took[static_cast<size_t>(share * (took.size() - 1))] / 1e3; };
    const double seconds = (ended_ns_ - began_ns_) / 1e9;
    const double per_s = took.size() / seconds;
    std::printf(
        "{\"mode\": \"%s\", \"messages\": %zu, \"in_flight\": %lu, \"rows\": %d, \"coalesce\": %s, \"seconds\": %.4f, "
        "\"messages_per_s\": %.1f, \"rows_per_s\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"mean_us\": %.1f, "
        "\"most_in_flight\": %lu, \"client_cpu_s\": %.3f}\n",
        options.mode.c_str(), took.size(), options.in_flight, rows_, coalesce_ ? "true" : "false", seconds, per_s, per_s * rows_, at(0.5), at(0.99),
        sum / took.size() / 1e3, most_in_flight_, cpu_s_);
  }

 private:
  enum Operation : intptr_t { kStart = 1, kRead, kWrite, kClose, kEnd };

  static void* Tag(Operation operation) { return reinterpret_cast<void*>(operation); }

  void WriteNext() {
    const uint64_t free = window_ - (sent_ - received_);
    if (sent_ == total_ || free == 0) {
      in_burst_ = false;
      return;
    }
    if (coalesce_ && !in_burst_ && free < (window_ + 1) / 2) return;
    in_burst_ = coalesce_;
    grpc::WriteOptions how;
    // With the hint gRPC keeps a message back until the next one, so the last of a burst goes without.
    if (coalesce_ && free > 1 && sent_ + 1 < total_) how.set_buffer_hint();
    frame_.set_frame_id(sent_);
    sent_ns_[sent_++] = NowNs();
    most_in_flight_ = std::max(most_in_flight_, sent_ - received_);
    writing_ = true;
    stream_->Write(frame_, how, Tag(kWrite));
  }

  void Check() {
    if (answer_.frame_id() != received_) throw std::runtime_error("out of order: " + answer_.ShortDebugString());
    if (!answer_.has_response() || answer_.response().probabilities_size() != rows_)
      throw std::runtime_error("not the answer: " + answer_.ShortDebugString().substr(0, 500));
    const uint64_t now_ns = NowNs();
    took_ns_[received_] = now_ns - sent_ns_[received_];
    if (++received_ == warmup_ || (warmup_ == 0 && received_ == 1)) {
      began_ns_ = warmup_ == 0 ? sent_ns_[0] : now_ns;
      cpu_began_s_ = CpuSeconds();
    }
  }

  [[noreturn]] void Fail() {
    grpc::Status status;
    stream_->Finish(&status, Tag(kEnd));
    AwaitTag(kEnd);
    throw std::runtime_error("the stream ended after " + std::to_string(received_) + " answers: status " +
                             std::to_string(status.error_code()) + " " + status.error_message());
  }

  // Half-closes and waits for the server's status: a stream that does not end well is no result.
  void Close() {
    while (writing_) {
      AwaitTag(kWrite);
      writing_ = false;
    }
    stream_->WritesDone(Tag(kClose));
    AwaitTag(kClose);
    grpc::Status status;
    stream_->Finish(&status, Tag(kEnd));
    AwaitTag(kEnd);
    if (!status.ok()) throw std::runtime_error("the stream ended with: " + status.error_message());
  }

  void AwaitTag(Operation operation) {
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok) && tag != Tag(operation)) {
    }
  }

  const uint64_t total_, warmup_, window_;
  const int rows_;
  const bool coalesce_;
  std::vector<uint64_t> sent_ns_, took_ns_;
  uint64_t sent_ = 0, received_ = 0, most_in_flight_ = 0, began_ns_ = 0, ended_ns_ = 0;
  double cpu_began_s_ = 0, cpu_s_ = 0;
  bool writing_ = false, in_burst_ = false;
  grpc::CompletionQueue queue_;
  grpc::ClientContext context_;
  v1::StreamPredictRequest frame_;
  v1::StreamPredictResponse answer_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<v1::StreamPredictRequest, v1::StreamPredictResponse>> stream_;
};

Options Parse(int argc, char** argv) {
  if (argc < 3 || argc % 2 == 0) throw std::invalid_argument("HOST:PORT, a mode, then options with a value each");
  Options options;
  options.address = argv[1];
  options.mode = argv[2];
  if (options.mode != "pingpong" && options.mode != "pipelined" && options.mode != "rows")
    throw std::invalid_argument("mode " + options.mode + ": expected pingpong, pipelined or rows");
  for (int i = 3; i < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    if (name == "--request") options.request = value;
    else if (name == "--count") options.count = std::stoull(value);
    else if (name == "--warmup") options.warmup = std::stoull(value);
    else if (name == "--rows") options.rows = std::stoi(value);
    else if (name == "--in-flight") options.in_flight = std::stoull(value);
    else if (name == "--coalesce") options.coalesce = value == "1";
    else throw std::invalid_argument("unknown option " + name);
  }
  if (options.request.empty() || options.count == 0) throw std::invalid_argument("--request and a --count are needed");
  if (options.mode == "pingpong") options.in_flight = 1;
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = Parse(argc, argv);
    Load load(options);
    load.Run();
    load.Print(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "stream_client: %s\n", error.what());
    return 1;
  }
}
