#include "router/limits/limit_setup.h"

#include <utility>

#include "common/files/read_file.h"
#include "common/tls/certificate.h"
#include "router/limits/redis/limit_script.h"
#include "router/limits/redis/redis_backend.h"

namespace choir {
namespace {

constexpr size_t kUrlBytesMax = 4096;

void AddTlsFiles(TlsOptions* tls, OptionSet* set) {
  set->Add(&tls->ca, {.key = "redis.ca",
                      .flag = tls->FileFlag("ca"),
                      .help = "PEM file: the authorities of the certificate of a rediss:// server "
                              "[the system's]"});
  set->Add(&tls->cert, {.key = "redis.cert",
                        .flag = tls->FileFlag("cert"),
                        .help = "PEM file: certificate for a server that demands one, leaf first"});
  set->Add(&tls->key, {.key = "redis.key",
                       .flag = tls->FileFlag("key"),
                       .help = "PEM file: its private key, without a passphrase"});
  set->Add(&tls->insecure, {.key = "redis.insecure",
                            .flag = tls->Flag("insecure"),
                            .help = "plain text to Redis also beyond this machine"});
}

Status GivenTwice() { return InvalidArgument("redis.url, redis.url_file: give one of them"); }

// What needs no file.
Status CheckAddress(const RedisOptions& redis, const TlsOptions& own) {
  const TlsOptions& tls = redis.tls;
  if (redis.url.empty() && !tls.configured()) return absl::OkStatus();
  if (redis.url.empty()) {
    return InvalidArgument("redis.url: missing, and files for TLS to Redis are given");
  }
  CHOIR_ASSIGN_OR_RETURN(const RedisAddress address, ParseRedisUrl(redis.url));
  if (address.tls) return absl::OkStatus();
  if (tls.configured()) {
    return InvalidArgument("{}, {}, {}: are for TLS, a redis.url with rediss://",
                           tls.FileFlag("ca"), tls.FileFlag("cert"), tls.FileFlag("key"));
  }
  if (own.insecure || tls.insecure || IsLoopback(address.HostPort())) return absl::OkStatus();
  return InvalidArgument(
      "redis.url: {} is beyond this machine, and redis:// is plain text: give rediss:// for TLS, "
      "or {} to send plain text",
      address.HostPort(), tls.Flag("insecure"));
}

}  // namespace

void AddRedisOptions(RedisOptions* redis, const TlsOptions* own, OptionSet* set) {
  set->Add(&redis->url, {.key = "redis.url",
                         .help = "redis://[user][:password]@host[:port][/db], rediss:// for TLS, "
                                 "where all routers count limits together; absent: each on its "
                                 "own"});
  set->Add(&redis->url_file, {.key = "redis.url_file",
                              .flag = "--redis-url-file",
                              .help = "file that holds redis.url, as it has a password in it"});
  AddTlsFiles(&redis->tls, set);
  set->Add(&redis->prefix, {.key = "redis.prefix", .help = "of all keys there"});
  set->AddDuration(&redis->timeout,
                   {.key = "redis.timeout",
                    .help = "an answer that takes longer is none: this router's share holds"},
                   std::chrono::milliseconds(5), std::chrono::seconds(10));
  set->AddDuration(
      &redis->lease,
      {.key = "redis.lease", .help = "a router that is silent there for so long is dead"},
      std::chrono::seconds(1), std::chrono::minutes(10));
  set->AddCheck([redis, own]() -> Status {
    if (redis->url_file.empty()) return CheckAddress(*redis, *own);
    return redis->url.empty() ? absl::OkStatus() : GivenTwice();
  });
  set->AddStartCheck([redis, own]() -> Status {
    const bool good = redis->url_file.empty() && CheckAddress(*redis, *own).ok();
    return good ? CheckRedis(*redis, *own) : absl::OkStatus();
  });
  set->AddFileCheck([redis, own]() -> Status {
    if (redis->url_file.empty() || !redis->url.empty()) return absl::OkStatus();
    RedisOptions read = *redis;
    return OpenRedis(&read, *own);
  });
}

Status ReadRedisUrlFile(RedisOptions* redis) {
  if (redis->url_file.empty()) return absl::OkStatus();
  if (!redis->url.empty()) return GivenTwice();
  auto read = ReadTextFile(redis->url_file, kUrlBytesMax);
  if (absl::IsNotFound(read.status())) {
    return NotFound("redis.url_file: there is no {}; write redis.url into it, or mount the secret",
                    redis->url_file);
  }
  CHOIR_RETURN_IF_ERROR(Annotate(read.status(), "redis.url_file"));
  std::string text = *std::move(read);
  text.erase(text.find_last_not_of(" \t\r\n") + 1);
  if (text.empty()) return InvalidArgument("redis.url_file: {} is empty", redis->url_file);
  redis->url = std::move(text);
  return absl::OkStatus();
}

Status CheckRedis(const RedisOptions& redis, const TlsOptions& own) {
  CHOIR_RETURN_IF_ERROR(CheckAddress(redis, own));
  return redis.tls.configured() ? LoadClientMaterial(redis.tls).status() : absl::OkStatus();
}

Status OpenRedis(RedisOptions* redis, const TlsOptions& own) {
  CHOIR_RETURN_IF_ERROR(ReadRedisUrlFile(redis));
  return CheckRedis(*redis, own);
}

StatusOr<RedisConnectionOptions> RedisConnectionOf(const RedisOptions& redis, std::string script) {
  RedisConnectionOptions connection;
  CHOIR_ASSIGN_OR_RETURN(connection.address, ParseRedisUrl(redis.url));
  connection.tls = redis.tls;
  connection.script = std::move(script);
  connection.timeout = redis.timeout;
  return connection;
}

StatusOr<std::unique_ptr<LimitBackend>> MakeLimitBackend(const RedisOptions& redis,
                                                         const std::string& router, OwnerPost post,
                                                         const Clock* clock) {
  if (redis.url.empty()) return MakeMemoryLimitBackend(clock);
  CHOIR_ASSIGN_OR_RETURN(auto connection, RedisConnectionOf(redis, kLimitScript));
  RedisBackendOptions backend = {.name = "redis " + connection.address.Name(),
                                 .prefix = redis.prefix,
                                 .router = router,
                                 .lease = redis.lease};
  return MakeRedisLimitBackend(std::move(backend),
                               ConnectToRedis(std::move(connection), std::move(post)), clock);
}

}  // namespace choir
