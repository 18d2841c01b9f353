// The contract without a model, by gRPC C++ with its callback API and default threads.
//
// `echo_cpp PORT` (0: any) prints the port it listens on, then answers until it is killed.
#include <grpcpp/grpcpp.h>

#include <iostream>
#include <memory>
#include <string>

#include "volcast/v1/inference.grpc.pb.h"

namespace v1 = volcast::v1;

namespace {

void Answer(const v1::PredictRequest& request, v1::PredictResponse* response) {
  const int rows = request.has_packed() ? static_cast<int>(request.packed().row_count()) : request.named().rows_size();
  response->set_model_name("echo");
  response->set_model_version("1");
  response->set_threshold(0.5);
  response->mutable_probabilities()->Resize(rows, 0.5);
}

// Reads a frame, answers it, reads the next: order without a queue, and a slow reader holds the writer back.
class Stream final : public grpc::ServerBidiReactor<v1::StreamPredictRequest, v1::StreamPredictResponse> {
 public:
  Stream() { StartRead(&frame_); }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    answer_.set_frame_id(frame_.frame_id());
    auto* response = answer_.mutable_response();
    response->clear_probabilities();
    Answer(frame_.request(), response);
    StartWrite(&answer_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::CANCELLED);
    StartRead(&frame_);
  }

  void OnDone() override { delete this; }

 private:
  v1::StreamPredictRequest frame_;
  v1::StreamPredictResponse answer_;
};

class Echo final : public v1::InferenceService::CallbackService {
  grpc::ServerUnaryReactor* Predict(grpc::CallbackServerContext* context, const v1::PredictRequest* request,
                                    v1::PredictResponse* response) override {
    Answer(*request, response);
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerBidiReactor<v1::StreamPredictRequest, v1::StreamPredictResponse>* StreamPredict(
      grpc::CallbackServerContext*) override {
    return new Stream();
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: echo_cpp PORT\n";
    return 2;
  }
  Echo echo;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(std::string("127.0.0.1:") + argv[1], grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&echo);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server || port == 0) {
    std::cerr << "echo_cpp: cannot listen on 127.0.0.1:" << argv[1] << "\n";
    return 1;
  }
  std::cout << port << std::endl;
  server->Wait();
}
