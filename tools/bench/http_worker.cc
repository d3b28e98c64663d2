// choir-http-worker PORT: an HTTP worker that answers every POST at once with one short completion
// from memory, and every GET with an empty object. What other routers are measured before
// (tools/bench/beside_sglang_router.py). One thread; for measurements on loopback only.
#include <boost/asio.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr std::string_view kCompletion =
    R"({"id":"c","object":"text_completion","created":1,"model":"model","choices":[{"index":0,"text":"a",)"
    R"("finish_reason":"length"}],"usage":{"prompt_tokens":17,"completion_tokens":1,"total_tokens":18}})";

std::string Response(std::string_view body) {
  return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + std::string(body);
}

size_t BodyBytes(std::string_view head) {
  for (const std::string_view name : {"\r\ncontent-length: ", "\r\nContent-Length: "}) {
    const size_t at = head.find(name);
    if (at != std::string_view::npos) {
      return std::strtoull(head.data() + at + name.size(), nullptr, 10);
    }
  }
  return 0;
}

asio::awaitable<void> Serve(tcp::socket socket) {
  static const std::string post = Response(kCompletion);
  static const std::string get = Response("{}");
  socket.set_option(tcp::no_delay(true));
  std::string in;
  try {
    while (true) {
      const size_t head = co_await asio::async_read_until(socket, asio::dynamic_buffer(in),
                                                          "\r\n\r\n", asio::use_awaitable);
      const size_t whole = head + BodyBytes(std::string_view(in).substr(0, head));
      if (in.size() < whole) {
        co_await asio::async_read(socket, asio::dynamic_buffer(in),
                                  asio::transfer_exactly(whole - in.size()), asio::use_awaitable);
      }
      const std::string& answer = in.starts_with("POST") ? post : get;
      in.erase(0, whole);
      co_await asio::async_write(socket, asio::buffer(answer), asio::use_awaitable);
    }
  } catch (const boost::system::system_error&) {
    // The peer is gone.
  }
}

asio::awaitable<void> Listen(uint16_t port) {
  tcp::acceptor acceptor(co_await asio::this_coro::executor,
                         {asio::ip::address_v4::loopback(), port});
  std::printf("listening %u\n", static_cast<unsigned>(acceptor.local_endpoint().port()));
  std::fflush(stdout);
  while (true) {
    asio::co_spawn(acceptor.get_executor(),
                   Serve(co_await acceptor.async_accept(asio::use_awaitable)), asio::detached);
  }
}

}  // namespace

int main(int argc, char** argv) {
  asio::io_context io(1);
  asio::co_spawn(io, Listen(static_cast<uint16_t>(argc > 1 ? std::atoi(argv[1]) : 0)),
                 [](const std::exception_ptr& error) {
                   if (error) std::rethrow_exception(error);
                 });
  io.run();
}
