// One HTTP/2 connection that makes the same unary gRPC call over and over.
//
// Frames are written here and not by a gRPC or HTTP/2 library because a generator that must offer several
// times what the server can answer, on the same two cores, can spend no more than about a microsecond a
// call: each call is a copy of one template with its stream id patched in. Header blocks of answers are
// decoded by nghttp2, whose HPACK keeps the state of the compression right. RFC 9113 and 7541 throughout.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "options.h"
#include "report.h"

class Connection {
 public:
  // Connects and sends the preface; throws std::runtime_error.
  Connection(const Options& options, Report& report);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  int fd() const { return fd_; }
  bool settled() const { return settled_; }  // the server's settings are here: calls may start
  bool ended() const { return ended_; }
  size_t outstanding() const { return outstanding_; }
  bool wants_write() const { return written_ < out_.size(); }

  // Whether a call may start now: the server's limits on streams and bytes allow it.
  bool CanStart() const;
  void Start(uint64_t due_ns);

  void Flush();    // writes what is waiting, as far as the socket takes it
  void Receive();  // reads and handles all there is

 private:
  struct Call {
    uint32_t stream = 0;  // 0: the slot is free
    int status = kNoStatus;
    uint64_t due_ns = 0, received = 0;
    unsigned char prefix[5] = {};
  };

  struct Frame {
    uint8_t type, flags;
    uint32_t stream;
    const uint8_t* payload;
    size_t size;
  };

  void Append(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload);
  void BuildTemplate(const std::string& block);
  void HandleAll(uint64_t now_ns);
  void Handle(Frame frame, uint64_t now_ns);
  void OnData(const Frame& frame, uint64_t now_ns);
  void OnHeaders(const Frame& frame, uint64_t now_ns);
  void OnSettings(const Frame& frame);
  void OnGoAway(const Frame& frame);
  void Inflate(Call* call);
  void Finish(uint32_t stream, uint64_t now_ns);
  void End();
  Call* Find(uint32_t stream);
  void Lose(uint32_t above);
  [[noreturn]] void Violation(const char* what) const;

  const Options& options_;
  Report& report_;
  int fd_ = -1;
  bool settled_ = false, ended_ = false, leaving_ = false;

  std::string first_block_, template_;
  std::vector<size_t> id_offsets_;  // where the template holds the stream id
  size_t header_table_bytes_ = 0;

  uint32_t next_stream_ = 1;
  size_t outstanding_ = 0, max_concurrent_ = SIZE_MAX;
  int64_t send_window_ = 65'535, stream_window_ = 65'535;
  uint64_t consumed_ = 0;
  std::vector<Call> calls_;

  std::string out_;
  size_t written_ = 0;
  std::vector<uint8_t> in_;
  size_t in_size_ = 0;
  std::string block_;  // a header block until it is whole
  uint32_t block_stream_ = 0;
  bool block_ends_stream_ = false;
  nghttp2_hd_inflater* inflater_ = nullptr;
};
