// Visualises a class: visualize-class [HOST:PORT [MODEL [CLASS [STEPS [FILE]]]]]

#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>

#include <grpcpp/grpcpp.h>

#include "endoscope/v1/gradient.grpc.pb.h"

namespace {

namespace v1 = endoscope::v1;

constexpr int kMaxMessageBytes = 256 << 20;

struct Options {
  std::string target = "127.0.0.1:50051";
  std::string model = "efficientnet-lite0";
  int class_index = 967;
  int steps = 64;
  std::string output = "class.png";
};

Options ParseOptions(int count, char** arguments) {
  Options options;
  if (count > 1) options.target = arguments[1];
  if (count > 2) options.model = arguments[2];
  if (count > 3) options.class_index = std::stoi(arguments[3]);
  if (count > 4) options.steps = std::stoi(arguments[4]);
  if (count > 5) options.output = arguments[5];
  return options;
}

void ShowStep(const v1::JobStep& step) {
  std::cerr << "step " << step.index() << " of " << step.total() << ":";
  for (const auto& [name, value] : step.losses()) std::cerr << ' ' << name << ' ' << value;
  std::cerr << std::endl;
}

// Reads the stream to its end. Throws what the server says if it refuses.
v1::ClassPicture Visualize(v1::GradientService::Stub& stub, const Options& options) {
  v1::VisualizeClassRequest request;
  request.set_model("models/" + options.model);
  request.add_classes(options.class_index);
  request.set_steps(options.steps);
  request.mutable_options()->set_preview_every(0);

  grpc::ClientContext context;
  const auto reader = stub.VisualizeClass(&context, request);
  v1::VisualizeClassResponse response;
  v1::ClassPicture picture;
  while (reader->Read(&response)) {
    if (response.has_header()) std::cerr << response.header().job() << std::endl;
    if (response.has_step()) ShowStep(response.step());
    if (response.has_result()) picture = response.result().pictures(0);
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) throw std::runtime_error(status.error_message());
  return picture;
}

void Write(const std::string& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary);
  file << content;
  file.close();
  if (!file) throw std::runtime_error("can't write " + path);
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const Options options = ParseOptions(count, arguments);
    grpc::ChannelArguments settings;
    settings.SetMaxReceiveMessageSize(kMaxMessageBytes);
    const auto channel = grpc::CreateCustomChannel(options.target, grpc::InsecureChannelCredentials(), settings);
    const auto stub = v1::GradientService::NewStub(channel);
    const v1::ClassPicture picture = Visualize(*stub, options);
    Write(options.output, picture.image().encoded());
    std::cout << options.output << ": " << picture.score().label() << ", logit " << picture.score().logit()
              << "; taken for " << picture.classification().top(0).label() << std::endl;
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
  return 0;
}
