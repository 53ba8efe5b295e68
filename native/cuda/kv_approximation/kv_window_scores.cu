// KvWindowScores on CUDA. The formula is in src/Kernels/KvApproximation/KvWindowScores.cs.
//
// A block a row finds the row's greatest logit and the sum of its exponentials. Then a thread has a position, and goes through the rows of
// its head in their order: neighbours read neighbours, and no sum depends on which block ran first.
#include "kv_window_scores.cuh"

#include "../device/math.cuh"

namespace auxcore::kv_window_scores {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kEveryLane = 0xffffffffu;
constexpr int kAtOnce = 8;  ///< logits of a thread that are under way at once

/// What the threads of a block bring, combined in one order; for all of them. words: a place a warp.
template <class Combine>
__device__ __forceinline__ float of_block(float value, float* words, const Combine& combine) {
#pragma unroll
  for (int with = kWarp / 2; with > 0; with /= 2)
    value = combine(value, __shfl_xor_sync(kEveryLane, value, with));
  if (int(threadIdx.x) % kWarp == 0)
    words[threadIdx.x / kWarp] = value;
  __syncthreads();
  float all = words[0];
#pragma unroll
  for (int warp = 1; warp < kThreads / kWarp; ++warp)
    all = combine(all, words[warp]);
  __syncthreads();
  return all;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_kv_window_softmaxes(Arguments arguments) {
  AUXCORE_SHARED(float, words, kThreads / kWarp);
  const int32_t query = int32_t(blockIdx.x % unsigned(arguments.rows)) % arguments.window;
  const int32_t seen = arguments.causal != 0 ? arguments.positions - arguments.window + query + 1 : arguments.positions;
  const AUXCORE_GLOBAL float* const logits =
      global<const float>(reinterpret_cast<uint64_t>(arguments.logits)) + int64_t{blockIdx.x} * arguments.positions;
  float greatest = -infinity();
  for (int32_t i = int32_t(threadIdx.x); i < seen; i += kThreads)
    greatest = fmaxf(greatest, __fmul_rn(logits[i], arguments.factor));
  greatest = of_block(greatest, words, [](float a, float b) { return fmaxf(a, b); });
  float total = 0;
  for (int32_t i = int32_t(threadIdx.x); i < seen; i += kThreads)  // a NaN, or infinities alone, make it NaN
    total += exp2_approximate(__fmul_rn(logits[i], arguments.factor) - greatest);
  total = of_block(total, words, [](float a, float b) { return a + b; });
  if (threadIdx.x == 0)
    arguments.softmaxes[blockIdx.x] = {greatest, 1.0f / float(arguments.rows) / total};
}
AUXCORE_KERNEL(auxcore_kv_window_softmaxes)

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_kv_window_means(Arguments arguments) {
  const unsigned blocks = unsigned(arguments.positions - 1) / kThreads + 1;  // of a head
  const int64_t head = blockIdx.x / blocks;
  const int64_t position = int64_t{blockIdx.x % blocks} * kThreads + threadIdx.x;
  if (position >= arguments.positions)
    return;
  // The first of a window's queries that sees the position.
  const int64_t beyond = position - (arguments.positions - arguments.window);
  const int32_t first = arguments.causal != 0 && beyond > 0 ? int32_t(beyond) : 0;
  const int64_t before = head * arguments.rows;
  const AUXCORE_GLOBAL RowSoftmax* const softmaxes =
      global<const RowSoftmax>(reinterpret_cast<uint64_t>(arguments.softmaxes)) + before;
  const AUXCORE_GLOBAL float* const logits =
      global<const float>(reinterpret_cast<uint64_t>(arguments.logits)) + before * arguments.positions + position;
  float score = 0;
  const auto add = [&](int32_t row, float logit) {
    score = fmaf(exp2_approximate(__fmul_rn(logit, arguments.factor) - softmaxes[row].shift), softmaxes[row].share, score);
  };
  for (int32_t from = 0; from < arguments.rows; from += arguments.window) {
    int32_t row = from + first;
    for (const int32_t end = from + arguments.window; row < end;) {
      if (row + kAtOnce > end) {
        add(row, logits[int64_t{row} * arguments.positions]);
        ++row;
        continue;
      }
      float some[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k)
        some[k] = logits[int64_t{row + k} * arguments.positions];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k)
        add(row + k, some[k]);
      row += kAtOnce;
    }
  }
  global<float>(reinterpret_cast<uint64_t>(arguments.scores))[head * arguments.positions + position] = score;
}
AUXCORE_KERNEL(auxcore_kv_window_means)

}  // namespace auxcore::kv_window_scores
