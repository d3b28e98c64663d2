// Decoders of tokenizer.json: tokens back to text, one token at a time. Decoder is immutable, any
// thread; a DecodeStream is the state of one text, one thread. What a stream returns is certain and
// ends at a character; all of it together is the decoded text. Supported: Sequence, ByteLevel,
// Replace, ByteFallback, Fuse, Strip, Metaspace, BPEDecoder, none.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "router/text/json_fields.h"

namespace choir::text {

// One step of one text. Steps work on tokens until one joins them (Fuse, ByteLevel); from there on
// the text comes as chunks of a single token.
class DecodeStep {
 public:
  virtual ~DecodeStep() = default;
  // Takes a token or chunk, appends to `out` what goes to the next step.
  virtual void Push(std::string_view text, std::vector<std::string>* out) = 0;
  virtual void Finish(std::vector<std::string>* out) = 0;
};

class DecodeStream {
 public:
  std::string Push(std::string_view token);
  std::string Finish();

 private:
  friend class Decoder;
  std::string RunFrom(size_t step, std::vector<std::string> texts);

  std::vector<std::unique_ptr<DecodeStep>> steps_;
};

class Decoder {
 public:
  // An absent or null field: tokens are joined with spaces, as the library does.
  static StatusOr<Decoder> Read(const JsonField& field);

  DecodeStream Start() const;
  // The bytes that a token adds when it is not the first: "" does not mean that it has no effect.
  std::string TokenBytes(std::string_view token) const;

 private:
  struct Factory {
    std::function<std::unique_ptr<DecodeStep>()> make;
    // The same for one token alone, on bytes.
    std::function<std::string(std::string)> bytes;
  };

  Status ReadInto(const JsonField& field, int depth);
  Status ReadOne(const JsonField& field, const std::string& type);
  Status ReadReplace(const JsonField& field);
  Status ReadMetaspace(const JsonField& field);
  Status ReadStrip(const JsonField& field);

  std::vector<Factory> steps_;
  bool joined_ = false;  // by a step so far
};

}  // namespace choir::text
