#include "connection.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <stdexcept>

namespace {

enum Type : uint8_t {
  kData = 0, kHeaders = 1, kReset = 3, kSettings = 4, kPush = 5, kPing = 6, kGoAway = 7, kWindowUpdate = 8,
  kContinuation = 9
};
constexpr uint8_t kAck = 1, kEndStream = 1, kEndHeaders = 4, kPadded = 8, kPriority = 32;
constexpr uint16_t kHeaderTableSize = 1, kEnablePush = 2, kMaxConcurrentStreams = 3, kInitialWindowSize = 4;
constexpr size_t kFrameHeader = 9, kFrameLimit = 16'384, kReadBytes = 256 * 1024;
constexpr uint32_t kOurStreamWindow = 1 << 24, kWidening = (1u << 31) - 1 - 65'535, kRefillAt = 1u << 29;

uint32_t Load32(const uint8_t* from) {
  return uint32_t{from[0]} << 24 | uint32_t{from[1]} << 16 | uint32_t{from[2]} << 8 | from[3];
}

std::string Big32(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8),
          static_cast<char>(value)};
}

void Store32(char* to, uint32_t value) { std::memcpy(to, Big32(value).data(), 4); }

std::string Setting(uint16_t id, uint32_t value) {
  return std::string{static_cast<char>(id >> 8), static_cast<char>(id)} + Big32(value);
}

uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// RFC 7541 5.1 and 5.2: a string without Huffman coding, its length in a prefix of 7 bits.
std::string HpackString(const std::string& text) {
  std::string coded;
  size_t left = text.size();
  if (left < 127) return static_cast<char>(left) + text;
  coded.push_back(127);
  for (left -= 127; left >= 128; left >>= 7) coded.push_back(static_cast<char>((left & 127) | 128));
  coded.push_back(static_cast<char>(left));
  return coded + text;
}

std::vector<std::pair<std::string, std::string>> RequestHeaders(const Options& options) {
  std::vector<std::pair<std::string, std::string>> headers = {{":path", options.path},
                                                              {":authority", options.address},
                                                              {"te", "trailers"},
                                                              {"content-type", "application/grpc"},
                                                              {"user-agent", "volcast-open-loop"}};
  if (options.timeout_ms > 0) headers.emplace_back("grpc-timeout", std::to_string(options.timeout_ms) + "m");
  headers.insert(headers.end(), options.headers.begin(), options.headers.end());
  return headers;
}

int Connect(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) throw std::runtime_error(address + ": expected HOST:PORT");
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(address.substr(0, colon).c_str(), address.substr(colon + 1).c_str(), &hints, &found) != 0)
    throw std::runtime_error(address + ": no such host");
  const int fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, 0);
  const bool connected = fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) == 0;
  freeaddrinfo(found);
  if (!connected) throw std::runtime_error(address + ": " + std::strerror(errno));
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

}  // namespace

Connection::Connection(const Options& options, Report& report)
    : options_(options), report_(report), fd_(Connect(options.address)), in_(kReadBytes) {
  if (nghttp2_hd_inflate_new(&inflater_) != 0) throw std::bad_alloc();
  // A ring by stream id. One that finds its slot still taken waits, so there are several for each call's share.
  size_t slots = 4096;
  while (slots < 4 * options.max_outstanding / options.connections) slots *= 2;
  calls_.resize(slots);

  // The first call puts its headers into the server's table (RFC 7541 6.2.1), all later ones are indices (6.1).
  const auto headers = RequestHeaders(options);
  std::string indexed = "\x83\x86";  // :method POST, :scheme http
  first_block_ = indexed;
  for (size_t i = 0; i < headers.size(); ++i) {
    first_block_ += '\x40' + HpackString(headers[i].first) + HpackString(headers[i].second);
    indexed += static_cast<char>(0x80 | (62 + headers.size() - 1 - i));
    header_table_bytes_ += headers[i].first.size() + headers[i].second.size() + 32;
  }
  if (first_block_.size() > kFrameLimit || headers.size() > 60) throw std::runtime_error("too many headers");
  BuildTemplate(first_block_);
  first_block_ = template_;
  BuildTemplate(indexed);

  out_ = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  Append(kSettings, 0, 0, Setting(kEnablePush, 0) + Setting(kInitialWindowSize, kOurStreamWindow));
  Append(kWindowUpdate, 0, 0, Big32(kWidening));
}

Connection::~Connection() {
  nghttp2_hd_inflate_del(inflater_);
  close(fd_);
}

void Connection::Append(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload) {
  const uint32_t size = static_cast<uint32_t>(payload.size());
  out_ += Big32(size << 8 | type);
  out_ += static_cast<char>(flags);
  out_ += Big32(stream);
  out_ += payload;
}

void Connection::BuildTemplate(const std::string& block) {
  std::string kept;
  kept.swap(out_);
  id_offsets_ = {5};
  Append(kHeaders, kEndHeaders, 0, block);
  std::string_view left = options_.body;
  while (!left.empty()) {
    const std::string_view part = left.substr(0, kFrameLimit);
    left.remove_prefix(part.size());
    id_offsets_.push_back(out_.size() + 5);
    Append(kData, left.empty() ? kEndStream : 0, 0, part);
  }
  template_.swap(out_);
  out_.swap(kept);
}

bool Connection::CanStart() const {
  return settled_ && !ended_ && !leaving_ && outstanding_ < max_concurrent_ &&
         send_window_ >= static_cast<int64_t>(options_.body.size()) &&
         calls_[(next_stream_ >> 1) & (calls_.size() - 1)].stream == 0;
}

void Connection::Start(uint64_t due_ns) {
  const uint32_t stream = next_stream_;
  next_stream_ += 2;
  if (next_stream_ > 0x7fff'fff0) leaving_ = true;
  Call& call = calls_[(stream >> 1) & (calls_.size() - 1)];
  call = Call{};
  call.stream = stream;
  call.due_ns = due_ns;
  const size_t at = out_.size();
  // The two templates differ in the header block only, so the first call's ids lie that much further on.
  const size_t shift = stream == 1 ? first_block_.size() - template_.size() : 0;
  out_ += stream == 1 ? first_block_ : template_;
  for (const size_t offset : id_offsets_) Store32(&out_[at + offset + (offset == 5 ? 0 : shift)], stream);
  send_window_ -= static_cast<int64_t>(options_.body.size());
  ++outstanding_;
}

void Connection::Flush() {
  while (!ended_ && written_ < out_.size()) {
    const ssize_t sent = send(fd_, out_.data() + written_, out_.size() - written_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) End();
      return;
    }
    written_ += static_cast<size_t>(sent);
  }
  out_.clear();
  written_ = 0;
}

void Connection::Receive() {
  while (!ended_) {
    const size_t room = in_.size() - in_size_;
    const ssize_t got = recv(fd_, in_.data() + in_size_, room, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return End();
    in_size_ += static_cast<size_t>(got);
    HandleAll(NowNs());
    if (static_cast<size_t>(got) < room) return;
  }
}

void Connection::HandleAll(uint64_t now_ns) {
  size_t at = 0;
  while (in_size_ - at >= kFrameHeader) {
    const uint8_t* head = in_.data() + at;
    const size_t size = Load32(head) >> 8;
    if (size > kFrameLimit) Violation("a frame larger than announced");
    if (in_size_ - at < kFrameHeader + size) break;
    Handle({head[3], head[4], Load32(head + 5) & 0x7fff'ffff, head + kFrameHeader, size}, now_ns);
    at += kFrameHeader + size;
  }
  in_size_ -= at;
  std::memmove(in_.data(), in_.data() + at, in_size_);
}

void Connection::Handle(Frame frame, uint64_t now_ns) {
  switch (frame.type) {
    case kData: return OnData(frame, now_ns);
    case kHeaders:
    case kContinuation: return OnHeaders(frame, now_ns);
    case kSettings: return OnSettings(frame);
    case kReset: return Finish(frame.stream, now_ns);
    case kGoAway: return OnGoAway(frame);
    case kPush: Violation("a push, which was not allowed");
    case kPing:
      if (!(frame.flags & kAck)) Append(kPing, kAck, 0, {reinterpret_cast<const char*>(frame.payload), frame.size});
      return;
    case kWindowUpdate:
      if (frame.size != 4) Violation("a window update of another size than 4");
      if (frame.stream == 0) send_window_ += Load32(frame.payload) & 0x7fff'ffff;
      return;
  }
}

void Connection::OnData(const Frame& frame, uint64_t now_ns) {
  consumed_ += frame.size;
  if (consumed_ > kRefillAt) {
    Append(kWindowUpdate, 0, 0, Big32(static_cast<uint32_t>(consumed_)));
    consumed_ = 0;
  }
  const size_t padding = frame.flags & kPadded ? (frame.size > 0 ? frame.payload[0] + 1u : 1u) : 0;
  if (padding > frame.size) Violation("more padding than payload");
  if (Call* call = Find(frame.stream)) {
    const uint8_t* bytes = frame.payload + (frame.flags & kPadded ? 1 : 0);
    const size_t size = frame.size - padding;
    for (size_t i = 0; i < size && call->received + i < sizeof call->prefix; ++i)
      call->prefix[call->received + i] = bytes[i];
    call->received += size;
  }
  if (frame.flags & kEndStream) Finish(frame.stream, now_ns);
}

void Connection::OnHeaders(const Frame& frame, uint64_t now_ns) {
  const uint8_t* bytes = frame.payload;
  size_t size = frame.size;
  if (frame.type == kHeaders) {
    const size_t front = (frame.flags & kPadded ? 1 : 0) + (frame.flags & kPriority ? 5 : 0);
    const size_t padding = frame.flags & kPadded && size > 0 ? bytes[0] : 0;
    if (front + padding > size) Violation("more padding than payload");
    bytes += front;
    size -= front + padding;
    block_stream_ = frame.stream;
    block_ends_stream_ = frame.flags & kEndStream;
    block_.clear();
  }
  block_.append(reinterpret_cast<const char*>(bytes), size);
  if (!(frame.flags & kEndHeaders)) return;
  Inflate(Find(block_stream_));
  if (block_ends_stream_) Finish(block_stream_, now_ns);
}

// Every block must pass, answered or not: the table of the compression is shared by all streams.
void Connection::Inflate(Call* call) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(block_.data());
  size_t left = block_.size();
  while (true) {
    nghttp2_nv header;
    int flags = 0;
    const ssize_t used = nghttp2_hd_inflate_hd2(inflater_, &header, &flags, bytes, left, 1);
    if (used < 0) Violation(nghttp2_strerror(static_cast<int>(used)));
    bytes += used;
    left -= static_cast<size_t>(used);
    if (flags & NGHTTP2_HD_INFLATE_EMIT && call != nullptr && header.namelen == 11 &&
        std::memcmp(header.name, "grpc-status", 11) == 0) {
      const char* value = reinterpret_cast<const char*>(header.value);
      std::from_chars(value, value + header.valuelen, call->status);
    }
    if (flags & NGHTTP2_HD_INFLATE_FINAL) break;
    if (!(flags & NGHTTP2_HD_INFLATE_EMIT) && left == 0) break;
  }
  nghttp2_hd_inflate_end_headers(inflater_);
}

void Connection::OnSettings(const Frame& frame) {
  if (frame.flags & kAck) return;
  for (size_t at = 0; at + 6 <= frame.size; at += 6) {
    const uint16_t id = static_cast<uint16_t>(frame.payload[at] << 8 | frame.payload[at + 1]);
    const uint32_t value = Load32(frame.payload + at + 2);
    if (id == kMaxConcurrentStreams) max_concurrent_ = value;
    if (id == kInitialWindowSize) stream_window_ = value;
    if (id == kHeaderTableSize && value < header_table_bytes_)
      throw std::runtime_error("the server's header table is smaller than the headers of one call");
  }
  if (stream_window_ < static_cast<int64_t>(options_.body.size()))
    throw std::runtime_error("the message is larger than the server's window of a stream");
  settled_ = true;
  Append(kSettings, kAck, 0, {});
}

void Connection::OnGoAway(const Frame& frame) {
  if (frame.size < 8) Violation("a GOAWAY shorter than 8");
  leaving_ = true;
  Lose(Load32(frame.payload) & 0x7fff'ffff);
}

Connection::Call* Connection::Find(uint32_t stream) {
  Call& call = calls_[(stream >> 1) & (calls_.size() - 1)];
  return stream != 0 && call.stream == stream ? &call : nullptr;
}

void Connection::Finish(uint32_t stream, uint64_t now_ns) {
  Call* call = Find(stream);
  if (call == nullptr) return;
  // One uncompressed message and nothing after it (gRPC over HTTP/2: Length-Prefixed-Message).
  const bool whole = call->received > 5 && call->prefix[0] == 0 && Load32(call->prefix + 1) + 5 == call->received;
  report_.Answered(call->due_ns, now_ns, call->status, whole);
  call->stream = 0;
  --outstanding_;
}

void Connection::Lose(uint32_t above) {
  for (Call& call : calls_) {
    if (call.stream <= above) continue;
    report_.Lost(call.due_ns);
    call.stream = 0;
    --outstanding_;
  }
}

void Connection::End() {
  ended_ = true;
  Lose(0);
}

void Connection::Violation(const char* what) const {
  throw std::runtime_error(options_.address + " broke HTTP/2: " + what);
}
