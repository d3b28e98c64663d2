#include "common/rpc/callback_thread.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "choir/v1/control.grpc.pb.h"

namespace choir {
namespace {

// Notes where the callbacks of its messages run, and answers each.
class Service final : public v1::Group::CallbackService {
 public:
  grpc::ServerBidiReactor<v1::JoinUp, v1::JoinDown>* Join(grpc::CallbackServerContext*) override {
    auto* echo = new Echo(this);
    echo->StartRead(&echo->up);
    return echo;
  }
  void Note() {
    char name[16] = {};
    pthread_getname_np(pthread_self(), name, sizeof(name));
    std::lock_guard lock(mu_);
    names_.insert(name);
    threads_.insert(std::this_thread::get_id());
  }
  std::set<std::string> names() {
    std::lock_guard lock(mu_);
    return names_;
  }
  size_t threads() {
    std::lock_guard lock(mu_);
    return threads_.size();
  }

 private:
  struct Echo final : grpc::ServerBidiReactor<v1::JoinUp, v1::JoinDown> {
    explicit Echo(Service* service) : service(service) {}
    void OnReadDone(bool ok) override {
      service->Note();
      if (!ok) return Finish(grpc::Status::OK);
      StartWrite(&down);
    }
    void OnWriteDone(bool) override {
      service->Note();
      StartRead(&up);
    }
    void OnDone() override { delete this; }
    Service* const service;
    v1::JoinUp up;
    v1::JoinDown down;
  };
  std::mutex mu_;
  std::set<std::string> names_;
  std::set<std::thread::id> threads_;
};

TEST(CallbackThreadTest, RunsTheCallbacksOfTheMessagesOfAllStreams) {
  UseOneCallbackThread();
  Service service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([port] {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      const auto stub = v1::Group::NewStub(grpc::CreateCustomChannel(
          "127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials(), arguments));
      grpc::ClientContext context;
      const auto stream = stub->Join(&context);
      v1::JoinDown down;
      for (int message = 0; message < 50; ++message) {
        ASSERT_TRUE(stream->Write(v1::JoinUp()));
        ASSERT_TRUE(stream->Read(&down));
      }
      stream->WritesDone();
      EXPECT_TRUE(stream->Finish().ok());
    });
  }
  for (std::thread& client : clients) client.join();
  server->Shutdown();
  EXPECT_EQ(service.names(), std::set<std::string>{"choir-grpc"});
  EXPECT_EQ(service.threads(), 1u);
}

}  // namespace
}  // namespace choir
