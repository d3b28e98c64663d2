#include "router/limits/redis/redis_protocol.h"

#include <hiredis/hiredis.h>

#include "common/base/check.h"

namespace choir {
namespace {

using Words = std::vector<std::string>;

StatusOr<Words> ToWords(const redisReply& reply) {
  if (reply.type == REDIS_REPLY_ERROR) {
    return Unavailable("error: {}", std::string(reply.str, reply.len));
  }
  Words words;
  if (reply.type == REDIS_REPLY_STRING || reply.type == REDIS_REPLY_STATUS) {
    words.emplace_back(reply.str, reply.len);
  }
  for (size_t i = 0; reply.type == REDIS_REPLY_ARRAY && i < reply.elements; ++i) {
    const redisReply* const element = reply.element[i];
    if (element->type != REDIS_REPLY_STRING) return Internal("an answer that is no list of texts");
    words.emplace_back(element->str, element->len);
  }
  return words;
}

}  // namespace

std::string EncodeCommand(const Words& words) {
  std::vector<const char*> pieces;
  std::vector<size_t> sizes;
  for (const std::string& word : words) {
    pieces.push_back(word.data());
    sizes.push_back(word.size());
  }
  char* bytes = nullptr;
  const int size =
      redisFormatCommandArgv(&bytes, static_cast<int>(words.size()), pieces.data(), sizes.data());
  CHOIR_CHECK(size > 0);  // else out of memory
  std::string command(bytes, static_cast<size_t>(size));
  redisFreeCommand(bytes);
  return command;
}

AnswerReader::AnswerReader() : reader_(redisReaderCreate()) { CHOIR_CHECK(reader_ != nullptr); }
AnswerReader::~AnswerReader() { redisReaderFree(reader_); }

void AnswerReader::Feed(std::string_view bytes) {
  redisReaderFeed(reader_, bytes.data(), bytes.size());  // an error stays for Next
}

std::optional<StatusOr<Words>> AnswerReader::Next() {
  void* found = nullptr;
  if (redisReaderGetReply(reader_, &found) != REDIS_OK) {
    return Internal("an answer that is none of Redis': {}", reader_->errstr);
  }
  if (found == nullptr) return std::nullopt;
  const std::unique_ptr<redisReply, void (*)(void*)> reply(static_cast<redisReply*>(found),
                                                           freeReplyObject);
  return ToWords(*reply);
}

}  // namespace choir
