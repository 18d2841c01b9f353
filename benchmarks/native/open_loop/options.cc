#include "options.h"

#include <fstream>
#include <iterator>
#include <stdexcept>

namespace {

std::string ReadBody(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string body{std::istreambuf_iterator<char>(file), {}};
  if (body.size() < 5) throw std::invalid_argument(path + " holds no framed message");
  return body;
}

std::pair<std::string, std::string> ParseHeader(const std::string& text) {
  const size_t colon = text.find(':', 1);
  const size_t value = colon == std::string::npos ? colon : text.find_first_not_of(' ', colon + 1);
  if (value == std::string::npos) throw std::invalid_argument("--header " + text + ": expected name: value");
  return {text.substr(0, colon), text.substr(value)};
}

void Set(Options& options, const std::string& name, const std::string& value) {
  if (name == "--request") options.body = ReadBody(value);
  else if (name == "--rate") options.rate = std::stod(value);
  else if (name == "--seconds") options.seconds = std::stod(value);
  else if (name == "--warmup-s") options.warmup_s = std::stod(value);
  else if (name == "--drain-s") options.drain_s = std::stod(value);
  else if (name == "--connections") options.connections = std::stoul(value);
  else if (name == "--max-outstanding") options.max_outstanding = std::stoul(value);
  else if (name == "--arrivals") options.arrivals = value;
  else if (name == "--seed") options.seed = std::stoull(value);
  else if (name == "--timeout-ms") options.timeout_ms = static_cast<unsigned>(std::stoul(value));
  else if (name == "--tick-us") options.tick_us = std::stoull(value);
  else if (name == "--path") options.path = value;
  else if (name == "--header") options.headers.push_back(ParseHeader(value));
  else if (name == "--spin") options.spin = value == "1";
  else throw std::invalid_argument("unknown option " + name);
}

}  // namespace

Options ParseOptions(int argc, char** argv) {
  if (argc < 2 || argc % 2 == 1) throw std::invalid_argument("expected HOST:PORT, then options with a value each");
  Options options;
  options.address = argv[1];
  for (int i = 2; i < argc; i += 2) Set(options, argv[i], argv[i + 1]);
  if (options.body.empty()) throw std::invalid_argument("--request FILE is needed");
  if (options.arrivals != "poisson" && options.arrivals != "constant")
    throw std::invalid_argument("--arrivals " + options.arrivals + ": expected poisson or constant");
  if (options.rate <= 0 || options.seconds <= 0 || options.connections == 0 || options.max_outstanding == 0)
    throw std::invalid_argument("--rate, --seconds, --connections and --max-outstanding are above 0");
  return options;
}
