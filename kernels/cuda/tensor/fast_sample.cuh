// sample, the second rung: the very token of the simple kernel and of the CPU's sampler.
// Shapes   as simple/sample.cuh. A card without shared memory for it: the simple way.
// Bound    memory: T·V·4 bytes once, 66 MB and 14 us on an H200 for 128 rows of 129,280. A weight
//          costs 37 operations in double: 43 us for as many on 128 multiprocessors of 64 a clock.
// Plan     a block of 1,024 threads a row. The first pass finds the best value and keeps the
//          greatest of each 128 bytes (4,040 groups). From these follows a cutoff that leaves few
//          candidates: top_k groups have a value of so much, or lighter tokens together weigh less
//          than what top_p or min_p leave out. Only groups that reach it are read again, into a
//          list in shared memory, and only what is listed is weighed. Then k-th best, nucleus and
//          draw are one operation, the key at which a sum reaches what is wanted
//          (digit_select.cuh). top_p needs the sum of all weights. What is not listed goes into it
//          as two bounds: from the groups' maxima; if the nucleus may end at more than one token
//          between them, by a pass in f32, which bounds the rest to 2^-21 of itself; at last by
//          exact weights. Too many candidates, or a nucleus that is not all listed: the same
//          operations by passes over the row, which weigh what bounds of its value do not rule out.
//          Counted, not run, for such rows, a digit taking half a microsecond: top_k = 50 is one
//          pass and 8 digits, 20 us; top_p = 0.95 at temperature 0.6 is one pass and 5 digits,
//          18 us, where the first bounds do, else one more pass and 2 digits, 33 us; neither top_k
//          nor top_p is a pass and one that weighs all, 60 us. The simple kernel reads a row 131
//          times for top_k and top_p, and weighs it 66 times.
// Oracle   simple/sample.cuh and worker/engine/sampler.h, tests/contract/kernels/sample_test.cc:
//          the same id, always.
#pragma once

#include "kernels/cuda/tensor/sample_row.cuh"

namespace choir::cuda {

struct FastSampleMemory {
  SelectMemory* select;
  uint64_t* list;
  int32_t list_max;
};

// One row at temperatures above 0, by one block; all threads call every function.
template <class Block>
struct RowSampler {
  Block& block;
  const FastSampleMemory& memory;
  const SampleRow& params;
  LogitRow row;
  KeptTokens kept;
  float best;  // the greatest value

  CHOIR_DEVICE bool IsTopK() const { return params.top_k > 0 && params.top_k < row.vocab; }
  CHOIR_DEVICE bool IsTopP() const { return params.top_p < 1.0; }

  // The id, or -1 when nothing that is kept weighs anything.
  CHOIR_DEVICE int32_t Take() {
    float cutoff = 0.0f;
    if (ChooseCutoff(&cutoff) && Gather(cutoff) && NarrowList(cutoff)) return DrawFromList();
    NarrowRow();
    return DrawFromRow();
  }

 private:
  CHOIR_DEVICE KeyList ListOf() const {
    return {memory.list, static_cast<int32_t>(memory.select->count)};
  }

  // From which value on tokens are to be candidates; false when there would be too many of them.
  CHOIR_DEVICE bool ChooseCutoff(float* cutoff) {
    *cutoff = kept.floor;
    if (IsTopK()) {  // as many groups have a value of so much
      *cutoff = Max(KthMaximum(params.top_k), *cutoff);
    } else if (IsTopP()) {  // all that are lighter weigh less than what may be left out
      const double light = (1.0 - params.top_p) * kWeightOne / row.vocab * 0.9;
      if (light < kWeightOne) *cutoff = Max(LeastValueOf(light), *cutoff);
    } else if (kept.least > 0.0) {
      *cutoff = Max(LeastValueOf(kept.least), *cutoff);
    }
    uint32_t groups = 0;
    for (int32_t g = block.thread(); g < row.groups(); g += block.threads()) {
      groups += row.maxima[g] >= *cutoff ? 1 : 0;
    }
    groups = BlockSum(block, groups, reinterpret_cast<uint32_t*>(memory.select->warps));
    const auto most = static_cast<uint32_t>(GroupsMost());
    if (groups <= most) return true;
    if (IsTopK() || !IsTopP()) return false;
    *cutoff = KthMaximum(static_cast<int32_t>(most));  // will do, unless the nucleus is large
    return true;
  }

  // Of so many groups the values that reach the least of their maxima should fit the list: of n
  // groups of values in random order they are n · ln(n / (n - k)) or a few more for k of them.
  CHOIR_DEVICE int32_t GroupsMost() const {
    if (row.vocab <= memory.list_max) return row.groups();
    const int32_t most = row.groups() / 4 * 3;
    return most < memory.list_max / 2 ? most : memory.list_max / 2;
  }

  CHOIR_DEVICE float LeastValueOf(double weight) const {
    return weight >= 1.0 ? kept.softmax.LeastValueOf(static_cast<uint64_t>(weight)) : -kInfinity;
  }

  // A value that the maxima of k groups reach, and of few more.
  CHOIR_DEVICE float KthMaximum(int32_t k) {
    const SelectedKey kth =
        SelectKey(block, memory.select, MaximaKeys{row.maxima, row.groups()}, MaximaKeys::All(),
                  [k](uint64_t) { return static_cast<uint64_t>(k); });
    return kth.there ? ValueOfOrder(static_cast<uint32_t>(kth.key)) : -kInfinity;
  }

  // The list has the value keys of all tokens from the cutoff on; false: it has no room for them.
  CHOIR_DEVICE bool Gather(float cutoff) {
    if (block.thread() == 0) memory.select->count = 0;
    block.Sync();
    row.ForUnits<2>(block, cutoff, [&](int32_t unit, const FourLogits& four) {
      CHOIR_UNROLL
      for (int j = 0; j < kUnit; ++j) {
        const int32_t id = row.IdOf(unit, j);
        if (!(four.at[j] >= cutoff) || !row.Has(id)) continue;
        const uint32_t place = block.AtomicAdd(&memory.select->count, 1u);
        if (place < static_cast<uint32_t>(memory.list_max)) {
          memory.list[place] = ValueKey(four.at[j], id);
        }
      }
    });
    block.Sync();
    return memory.select->count <= static_cast<uint32_t>(memory.list_max);
  }

  // top_k and top_p in the list, of which weight keys are made. False: the nucleus is not in it.
  CHOIR_DEVICE bool NarrowList(float cutoff) {
    uint64_t value_key = 0;
    if (IsTopK()) {
      const uint64_t base = ValueKey(cutoff, kVocabMax);
      value_key = SelectKey(block, memory.select, ListValues{ListOf()},
                            {base, BitsOf(ValueKey(best, 0) - base)}, KeepsBest{params.top_k})
                      .key;
    }
    for (int32_t i = block.thread(); i < ListOf().count; i += block.threads()) {
      const uint64_t key = memory.list[i];
      const uint64_t weight = key < value_key ? 0 : kept.softmax.WeightOf(ValueOfKey(key));
      memory.list[i] = IdKey(weight, IdOfKey(key));
    }
    block.Sync();
    return !IsTopP() || FindNucleus(cutoff);
  }

  struct KeepsBest {
    int32_t k;
    CHOIR_DEVICE uint64_t operator()(uint64_t) const { return static_cast<uint64_t>(k); }
  };

  // How much has to be kept of a total: at least the heaviest.
  CHOIR_DEVICE uint64_t Wanted(uint64_t total) const {
    const double share = params.top_p > 0.0 ? params.top_p : 0.0;
    const auto wanted = static_cast<uint64_t>(share * static_cast<double>(total));
    return wanted > 0 ? wanted : 1;
  }

  // What is not listed weighs something, too. Bounds of that, better and dearer ones from time to
  // time, until all sums between them have the same nucleus.
  CHOIR_DEVICE bool FindNucleus(float cutoff) {
    const bool all = IsTopK() || cutoff <= kept.floor;
    const uint64_t unlisted = all ? 0 : kept.softmax.MostWeightBelow(cutoff);
    const QuickWeight quick = QuickWeightOf(kept.softmax);
    CHOIR_ROLLED
    for (int way = quick.usable ? 0 : 2; way < 3; ++way) {
      SumBounds rest;
      if (!all && way == 0) rest = RestByMaxima(quick, cutoff);
      if (!all && way == 1) rest = RestByQuickWeights(quick, cutoff);
      if (!all && way == 2) rest = ExactRest(cutoff);
      const SelectedKey edge = SelectKey(block, memory.select, ListWeights{ListOf()}, DigitRange{},
                                         [&](uint64_t total) { return Wanted(total + rest.most); });
      const bool listed = edge.there && (all || edge.key >> kIdBits > unlisted);
      if (listed && edge.before < Wanted(edge.total + rest.least)) {
        kept.weight_key = edge.key;
        return true;
      }
      if (!listed && way > 0) return false;
    }
    return false;
  }

  // A group's tokens weigh no more than its greatest value, or than the cutoff.
  CHOIR_DEVICE SumBounds RestByMaxima(const QuickWeight& quick, float cutoff) {
    double sum = 0.0;
    for (int32_t g = block.thread(); g < row.groups(); g += block.threads()) {
      const float most = row.maxima[g];
      if (most >= kept.floor) sum += static_cast<double>(quick.Of(most < cutoff ? most : cutoff));
    }
    sum = BlockSum(block, sum, memory.select->doubles) * (kUnit * kGroupUnits * quick.factor);
    return {0, static_cast<uint64_t>(sum * 1.001) + static_cast<uint64_t>(row.vocab)};
  }

  CHOIR_DEVICE SumBounds RestByQuickWeights(const QuickWeight& quick, float cutoff) {
    double sum = 0.0;
    row.ForUnits<2>(block, kept.floor, [&](int32_t, const FourLogits& four) {
      float weights[kUnit];
      CHOIR_UNROLL
      for (int j = 0; j < kUnit; ++j) {
        const bool rest = four.at[j] >= kept.floor && four.at[j] < cutoff;
        weights[j] = rest ? quick.Of(four.at[j]) : 0.0f;
      }
      sum += static_cast<double>((weights[0] + weights[1]) + (weights[2] + weights[3]));
    });
    sum = BlockSum(block, sum, memory.select->doubles) * quick.factor;
    const double error = sum * 0x1p-21 + row.vocab;  // of quick weights, and of rounding to units
    return {sum > error ? static_cast<uint64_t>(sum - error) : 0,
            static_cast<uint64_t>(sum + error) + 1};
  }

  CHOIR_DEVICE SumBounds ExactRest(float cutoff) {
    uint64_t sum = 0;
    row.ForUnits<1>(block, kept.floor, [&](int32_t, const FourLogits& four) {
      CHOIR_UNROLL
      for (int j = 0; j < kUnit; ++j) {
        const bool rest = four.at[j] >= kept.floor && four.at[j] < cutoff;
        if (rest) sum += kept.softmax.WeightOf(four.at[j]);
      }
    });
    sum = BlockSum(block, sum, memory.select->warps);
    return {sum, sum};
  }

  // top_k and top_p in the row itself.
  CHOIR_DEVICE void NarrowRow() {
    if (IsTopK()) {
      const uint64_t base = ValueKey(kept.floor, kVocabMax);
      kept.value_key = SelectKey(block, memory.select, RowValues{row},
                                 {base, BitsOf(ValueKey(best, 0) - base)}, KeepsBest{params.top_k})
                           .key;
      if (kept.value_key != 0) kept.floor = ValueOfKey(kept.value_key);
    }
    if (IsTopP()) {
      KeptTokens before_min_p = kept;
      before_min_p.least = 0.0;
      kept.weight_key = SelectKey(block, memory.select, RowWeights{row, before_min_p}, DigitRange{},
                                  [&](uint64_t total) { return Wanted(total); })
                            .key;
    }
    const auto lightest = static_cast<double>(kept.weight_key >> kIdBits);
    kept.floor = Max(kept.floor, LeastValueOf(lightest > kept.least ? lightest : kept.least));
  }

  CHOIR_DEVICE uint64_t Target(uint64_t total) const {
    const double uniform = UniformFor(params.seed, params.choice, params.position);
    return static_cast<uint64_t>(uniform * static_cast<double>(total));
  }

  CHOIR_DEVICE int32_t DrawFromList() {
    const SelectedKey drawn =
        SelectKey(block, memory.select, ListIds{ListOf(), kept}, ListIds::All(),
                  [&](uint64_t total) { return Target(total) + 1; });
    return drawn.there ? static_cast<int32_t>(IdOfKey(drawn.key)) : -1;
  }

  // Sums of runs of ids, a few steps of a warp each, then of the ids of one run; the first has the
  // last bin.
  CHOIR_DEVICE int32_t DrawFromRow() {
    constexpr int32_t kStepUnits = kWarp;
    const int32_t steps = (row.units() + kStepUnits - 1) / kStepUnits;
    const int32_t of_run = (steps + kSelectThreads - 1) / kSelectThreads;
    uint64_t* bins = memory.select->bins;
    bins[block.thread()] = 0;
    block.Sync();
    for (int32_t s = block.warp(); s < steps; s += kSelectThreads / kWarp) {
      uint64_t sum = SumOfUnit(s * kStepUnits + block.lane());
      if (block.Ballot(sum != 0) == 0) continue;
      sum = WarpSum(block, sum);
      if (block.lane() == 0) block.AtomicAdd(bins + (kSelectThreads - 1 - s / of_run), sum);
    }
    const FoundBin run =
        FindBin(block, memory.select, 0, [&](uint64_t total) { return Target(total) + 1; });
    if (run.bin < 0) return -1;
    const int32_t first = row.IdOf((kSelectThreads - 1 - run.bin) * of_run * kStepUnits, 0);
    const int32_t id = first + (kSelectThreads - 1 - block.thread());
    const bool mine = row.Has(id) && id - first < of_run * kStepUnits * kUnit;
    bins[block.thread()] = mine ? kept.WeightOf(row.values[id], id) : 0;
    const FoundBin place =
        FindBin(block, memory.select, run.above, [&](uint64_t) { return run.wanted; });
    return first + (kSelectThreads - 1 - place.bin);
  }

  CHOIR_DEVICE uint64_t SumOfUnit(int32_t unit) const {
    uint64_t sum = 0;
    if (unit >= row.units() || !(row.MaximumAt(unit) >= kept.floor)) return sum;
    const FourLogits four = row.At(unit);
    CHOIR_UNROLL
    for (int j = 0; j < kUnit; ++j) sum += kept.WeightOf(four.at[j], row.IdOf(unit, j));
    return sum;
  }
};

struct FastSampleKernel {
  static constexpr int kThreads = kSelectThreads;
  static constexpr int kBlocksLeast = 1;
  static constexpr int64_t kListLeast = 128;
  static constexpr int64_t kListMost = 16 * 1024;

  const float* logits;
  const SampleRow* rows;
  int32_t* ids;
  int32_t vocab;
  int32_t list_max;

  // Without the list; of the most groups that a row of so many has.
  static int64_t SharedBytes(int64_t vocab) {
    const int64_t groups = CeilDiv(vocab + kUnit - 1, kUnit * kGroupUnits);
    return static_cast<int64_t>(sizeof(SelectMemory)) +
           CeilDiv(groups, 4) * 4 * static_cast<int64_t>(sizeof(float));
  }

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const SampleRow& params = rows[block.x()];
    const float* values = logits + block.x() * vocab;
    std::byte* shared = block.shared();
    auto* maxima = reinterpret_cast<float*>(shared + sizeof(SelectMemory));
    const LogitRow row{values, maxima, vocab, LogitRow::SkewOf(values)};
    const FastSampleMemory memory{
        reinterpret_cast<SelectMemory*>(shared),
        reinterpret_cast<uint64_t*>(maxima + CeilDiv(row.groups(), 2) * 2), list_max};
    const int32_t best = Best(block, row, memory.select->warps);
    int32_t id = best;
    // Of infinite values, or of none that are numbers, none weighs anything; none is kept by a
    // min_p above 1.
    const float value = values[best];
    const double least = params.min_p * kWeightOne;
    if (params.temperature > 0.0 && value - value == 0.0f && !(least > kWeightOne)) {
      const double temperature = params.temperature > 1e-300 ? params.temperature : 1e-300;
      const ExactSoftmax softmax{static_cast<double>(value), temperature, 1.0 / temperature};
      RowSampler<Block> sampler{
          .block = block,
          .memory = memory,
          .params = params,
          .row = row,
          .kept = {.softmax = softmax, .floor = softmax.LeastValueOf(1), .least = least},
          .best = value};
      id = sampler.Take();
      if (id < 0) id = best;
    }
    if (block.thread() == 0) ids[block.x()] = id;
  }

  // The id of the greatest value, ties: the lower; 0 if none is above -inf. Fills row.maxima.
  template <class Block>
  CHOIR_DEVICE int32_t Best(Block& block, const LogitRow& row, uint64_t* scratch) const {
    constexpr int kAtOnce = 4;
    float best = -kInfinity;
    int32_t best_unit = 0;
    CHOIR_ROLLED
    for (int32_t u0 = 0; u0 < row.units(); u0 += kAtOnce * kThreads) {
      FourLogits fours[kAtOnce];
      CHOIR_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int32_t u = u0 + i * kThreads + block.thread();
        fours[i] = u < row.units() ? row.At(u)
                                   : FourLogits{-kInfinity, -kInfinity, -kInfinity, -kInfinity};
      }
      CHOIR_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int32_t u = u0 + i * kThreads + block.thread();
        const float(&at)[kUnit] = fours[i].at;
        float most = fmaxf(fmaxf(fmaxf(at[0], at[1]), fmaxf(at[2], at[3])), -kInfinity);
        if (most > best) best_unit = u;
        best = fmaxf(best, most);
        CHOIR_UNROLL
        for (int mask = 1; mask < kGroupUnits; mask *= 2) {
          most = fmaxf(most, block.ShuffleXor(most, mask));
        }
        if (u % kGroupUnits == 0 && u < row.units()) row.maxima[u / kGroupUnits] = most;
      }
    }
    const uint64_t own =
        (uint64_t{OrderOf(best)} << 32) | (0xffffffffu - static_cast<uint32_t>(best_unit));
    const uint64_t key = BlockMax(block, own, scratch);
    best = ValueOfOrder(static_cast<uint32_t>(key >> 32));
    if (best == -kInfinity) return 0;
    const auto unit = static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key));
    const FourLogits four = row.At(unit);
    for (int j = 0; j < kUnit; ++j) {
      const int32_t id = row.IdOf(unit, j);
      if (row.Has(id) && four.at[j] == best) return id;
    }
    return 0;
  }
};

template <class Runner>
void FastSample(const SampleArgs& a, const Runner& run) {
  const int64_t vocab = a.logits.dim(1);
  CHOIR_CHECK(vocab > 0 && vocab <= kVocabMax);
  CHOIR_CHECK(static_cast<int64_t>(a.rows.size()) == a.logits.dim(0));
  const int64_t fixed = FastSampleKernel::SharedBytes(vocab);
  const int64_t left = (run.card().shared_bytes - fixed) / static_cast<int64_t>(sizeof(uint64_t));
  if (left < FastSampleKernel::kListLeast) return Sample(a, run);
  const int64_t list = left < FastSampleKernel::kListMost ? left : FastSampleKernel::kListMost;
  Upload<Runner> upload(run);
  run({.x = a.logits.dim(0),
       .threads = kSelectThreads,
       .shared_bytes = fixed + list * static_cast<int64_t>(sizeof(uint64_t))},
      FastSampleKernel{a.logits.f32(), upload(a.rows), a.ids.template data<int32_t>(),
                       static_cast<int32_t>(vocab), static_cast<int32_t>(list)});
}

}  // namespace choir::cuda
