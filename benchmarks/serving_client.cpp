// Clients of a serving benchmark. Each is a thread with a connection of its own, sends its request again and again, and
// waits for each answer.
//
//   serving_client TARGET SECONDS call|stream REQUEST... [-- IMAGE OBJECT...]
//
// REQUEST is a file with an encoded inference.ModelInferRequest, one for each client. With IMAGE, a file, each client
// copies it into its OBJECT of POSIX shared memory before it asks. Prints the seconds that all took together, then those
// of each request, one a line.
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/client_unary_call.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/sync_stream.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;
using grpc::internal::RpcMethod;

struct Client {
  std::string request;
  std::string image;
  char* object = nullptr;
  std::vector<double> latencies;
};

[[noreturn]] void fail(const std::string& problem) {
  std::fprintf(stderr, "%s\n", problem.c_str());
  std::exit(1);
}

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("can't read " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

char* mapped(const std::string& name, size_t size) {
  const int descriptor = shm_open(name.c_str(), O_RDWR, 0);
  void* found = descriptor < 0 ? MAP_FAILED : mmap(nullptr, size, PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (found == MAP_FAILED) fail("can't map " + name);
  close(descriptor);
  return static_cast<char*>(found);
}

double seconds_since(Clock::time_point begun) { return std::chrono::duration<double>(Clock::now() - begun).count(); }

// Asks by `ask` until the time is over.
template <typename Ask>
void repeat(Client& client, Clock::time_point until, Ask ask) {
  while (true) {
    const auto begun = Clock::now();
    if (begun >= until) return;
    if (client.object != nullptr) std::memcpy(client.object, client.image.data(), client.image.size());
    ask();
    client.latencies.push_back(seconds_since(begun));
  }
}

void work(Client& client, const std::shared_ptr<grpc::Channel>& channel, bool stream, Clock::time_point until) {
  const grpc::Slice slice(client.request.data(), client.request.size(), grpc::Slice::STATIC_SLICE);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer answer;
  if (!stream) {
    const RpcMethod method("/inference.GRPCInferenceService/ModelInfer", RpcMethod::NORMAL_RPC);
    repeat(client, until, [&] {
      grpc::ClientContext context;
      const auto status = grpc::internal::BlockingUnaryCall<grpc::ByteBuffer, grpc::ByteBuffer>(
          channel.get(), method, &context, request, &answer);
      if (!status.ok()) fail(status.error_message());
    });
    return;
  }
  const RpcMethod method("/inference.GRPCInferenceService/ModelStreamInfer", RpcMethod::BIDI_STREAMING);
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>> call(
      grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(channel.get(), method,
                                                                                             &context));
  repeat(client, until, [&] {
    if (!call->Write(request) || !call->Read(&answer)) fail("the stream ended: " + call->Finish().error_message());
    grpc::Slice first;
    // Field 1 is an error's message.
    if (!answer.TrySingleSlice(&first).ok()) answer.DumpToSingleSlice(&first);
    if (first.size() > 0 && first.begin()[0] == 0x0a) fail("an answer is an error");
  });
  call->WritesDone();
}

int main(int count, char** arguments) {
  if (count < 5) fail("expected a target, seconds, call or stream, and files of requests");
  const bool stream = std::string(arguments[3]) == "stream";
  std::vector<Client> clients;
  int place = 4;
  for (; place < count && std::string(arguments[place]) != "--"; ++place) {
    clients.push_back({content_of(arguments[place]), {}, nullptr, {}});
  }
  if (place + 1 < count) {
    const std::string image = content_of(arguments[place + 1]);
    for (size_t index = 0; index < clients.size(); ++index) {
      clients[index].image = image;
      clients[index].object = mapped(arguments[place + 2 + index], image.size());
    }
  }
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (size_t index = 0; index < clients.size(); ++index) {
    grpc::ChannelArguments options;
    options.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    options.SetMaxReceiveMessageSize(-1);
    channels.push_back(grpc::CreateCustomChannel(arguments[1], grpc::InsecureChannelCredentials(), options));
    if (!channels.back()->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(60))) {
      fail("nobody listens");
    }
  }
  const auto begun = Clock::now();
  const auto until = begun + std::chrono::duration_cast<Clock::duration>(
                                 std::chrono::duration<double>(std::atof(arguments[2])));
  std::vector<std::thread> threads;
  for (size_t index = 0; index < clients.size(); ++index) {
    threads.emplace_back(work, std::ref(clients[index]), channels[index], stream, until);
  }
  for (auto& thread : threads) thread.join();
  std::printf("%.9f\n", seconds_since(begun));
  for (const auto& client : clients) {
    for (const double latency : client.latencies) std::printf("%.9f\n", latency);
  }
}
