// Answers that were given before: a request whose answer is a function of the request alone gets
// the tokens that it got last time, without being computed. The seam of where they are kept. Owner
// thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/sha256.h"
#include "router/base/types.h"

namespace choir {

using ResultKey = Sha256Digest;

// What the answer depends on.
struct ResultQuestion {
  std::string tenant;       // what one asked is not felt by others
  std::string numerics_id;  // other bits are other answers
  const std::vector<int32_t>& prompt;
  const SequenceSampling& sampling;
  bool seeded = false;  // by the client
  uint32_t num_choices = 1;
  const std::vector<std::string>& stops;
};

// None: asked again, it may have another answer (drawn at random without a seed of the client's),
// or it has one that is not kept (log probabilities).
std::optional<ResultKey> KeyOf(const ResultQuestion& question);

// As bytes; nothing for bytes that are no answer.
std::string EncodeKnownAnswer(const KnownAnswer& answer);
std::optional<KnownAnswer> DecodeKnownAnswer(const std::string& bytes);

class ResultCache {
 public:
  virtual ~ResultCache() = default;
  // `done` is called now or later; with nothing where it is not known or cannot be looked up.
  using Found = std::function<void(std::optional<KnownAnswer>)>;
  virtual void Find(const ResultKey& key, Found done) = 0;
  // What does not fit is left out.
  virtual void Put(const ResultKey& key, const KnownAnswer& answer) = 0;

  struct State {
    std::string store;    // "memory", "redis HOST:PORT/DB"
    std::string problem;  // empty: none
    size_t answers = 0;   // kept here
    size_t bytes = 0;     // that they take
  };
  virtual State state() const = 0;
};

// Keeps the answers that were asked for last, at most `bytes_max` of them and each for at most
// `time`. `clock` outlives it.
std::unique_ptr<ResultCache> MakeMemoryResultCache(size_t bytes_max, Duration time,
                                                   const Clock* clock);

}  // namespace choir
