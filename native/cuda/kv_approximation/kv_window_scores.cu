// KvWindowScores on CUDA. The formula is in src/Kernels/KvApproximation/KvWindowScores.cs.
//
// A block a row finds the row's greatest logit and the sum of its exponentials. Then a thread has a position, and goes through the rows of
// its head in their order: neighbours read neighbours, and no sum depends on which block ran first.
//
// From queries and keys, a block forms a tile of 64 x 64 logits and leaves weights, powers of 2 beside the greatest logit of the row in
// that tile, with their sum. Blocks of the same keys are neighbours, so a key crosses the memory bus once. A warp a row then finds what
// each tile's weights count, and a thread a position adds the rows in their order.
#include "kv_window_scores.cuh"

#include "../token_pruning/token_tiles.cuh"

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

namespace {

using tokens::kTile;
using tokens::kTilePart;

static_assert(kTile == kTileKeys && kTile == kTileRows && kProductThreads == tokens::kTileThreads);

}  // namespace

extern "C" __global__ void __launch_bounds__(kProductThreads) auxcore_kv_window_products(ProductArguments arguments) {
  AUXCORE_TILE_SPACE(space);
  const unsigned row_tiles = unsigned(arguments.rows - 1) / kTileRows + 1, unit = blockIdx.x / row_tiles;
  const int32_t first_row = int32_t(blockIdx.x % row_tiles) * kTileRows, key_tile = int32_t(unit % unsigned(arguments.key_tiles));
  const int32_t head = int32_t(unit / unsigned(arguments.key_tiles)), first_key = key_tile * kTileKeys, rows = arguments.rows;
  const AUXCORE_GLOBAL float* const queries =
      global<const float>(reinterpret_cast<uint64_t>(arguments.queries)) + (int64_t{head} * rows + first_row) * arguments.depth;
  const AUXCORE_GLOBAL float* const keys = global<const float>(reinterpret_cast<uint64_t>(arguments.keys)) + head * arguments.head_step +
                                           first_key * arguments.key_step;
  const tokens::TileSums tile = tokens::tile_products(
      arguments.depth, space,
      [&](int32_t row, int32_t k) {
        return first_row + row < rows ? product(queries[int64_t{row} * arguments.depth + k], arguments.factor) : 0.0f;
      },
      [&](int32_t key, int32_t k) { return first_key + key < arguments.positions ? keys[key * arguments.key_step + k] : 0.0f; });

  AUXCORE_GLOBAL float* const weights = global<float>(reinterpret_cast<uint64_t>(arguments.weights));
  AUXCORE_GLOBAL TilePart* const parts = global<TilePart>(reinterpret_cast<uint64_t>(arguments.parts));
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int32_t row = first_row + tokens::tile_row() + r, first = first_key + tokens::tile_column();
    const int32_t seen = arguments.causal != 0 ? arguments.positions - arguments.window + row % arguments.window + 1 : arguments.positions;
    float greatest = -infinity();
#pragma unroll
    for (int c = 0; c < 4; ++c)
      greatest = fmaxf(greatest, first + c < seen ? tile.at[r][c] : -infinity());
#pragma unroll
    for (int lane = kTilePart / 2; lane > 0; lane /= 2)
      greatest = fmaxf(greatest, __shfl_xor_sync(kEveryLane, greatest, lane));
    const float shift = greatest == -infinity() ? 0.0f : greatest;
    const int64_t at = int64_t{head} * rows + row;
    float sum = 0;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float weight = first + c < seen ? exp2_approximate(tile.at[r][c] - shift) : 0.0f;  // of a NaN it is NaN
      sum += weight;
      if (row < rows && first + c < arguments.positions)
        weights[at * arguments.positions + first + c] = weight;
    }
#pragma unroll
    for (int lane = kTilePart / 2; lane > 0; lane /= 2)
      sum += __shfl_xor_sync(kEveryLane, sum, lane);
    if (tokens::tile_column() == 0 && row < rows) {
      parts[at * arguments.key_tiles + key_tile].greatest = greatest;
      parts[at * arguments.key_tiles + key_tile].sum = sum;
    }
  }
}
AUXCORE_KERNEL(auxcore_kv_window_products)

extern "C" __global__ void __launch_bounds__(kRowsOfBlock * kWarp) auxcore_kv_window_shares(ProductArguments arguments) {
  const int64_t row = int64_t{blockIdx.x} * kRowsOfBlock + int(threadIdx.x) / kWarp;
  if (row >= int64_t{arguments.heads} * arguments.rows)  // the whole warp
    return;
  AUXCORE_GLOBAL TilePart* const parts = global<TilePart>(reinterpret_cast<uint64_t>(arguments.parts)) + row * arguments.key_tiles;
  const int32_t lane = int32_t(threadIdx.x) % kWarp;
  float greatest = -infinity(), total = 0;
  for (int32_t tile = lane; tile < arguments.key_tiles; tile += kWarp)
    greatest = fmaxf(greatest, parts[tile].greatest);
#pragma unroll
  for (int with = kWarp / 2; with > 0; with /= 2)
    greatest = fmaxf(greatest, __shfl_xor_sync(kEveryLane, greatest, with));
  for (int32_t tile = lane; tile < arguments.key_tiles; tile += kWarp)
    total = fmaf(exp2_approximate(parts[tile].greatest - greatest), parts[tile].sum, total);
#pragma unroll
  for (int with = kWarp / 2; with > 0; with /= 2)
    total += __shfl_xor_sync(kEveryLane, total, with);
  // A tile of which a row sees nothing has a greatest of -infinity, and counts 0. A row that sees nothing but -infinity is NaN: of a
  // head's scores it makes NaN, as a row with a NaN does.
  const float share = 1.0f / float(arguments.rows) / total;
  for (int32_t tile = lane; tile < arguments.key_tiles; tile += kWarp)
    parts[tile].greatest = product(exp2_approximate(parts[tile].greatest - greatest), share);
}
AUXCORE_KERNEL(auxcore_kv_window_shares)

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_kv_window_collect(ProductArguments arguments) {
  const unsigned blocks = unsigned(arguments.positions - 1) / kThreads + 1;  // of a head
  const int64_t head = blockIdx.x / blocks;
  const int64_t position = int64_t{blockIdx.x % blocks} * kThreads + threadIdx.x;
  if (position >= arguments.positions)
    return;
  const int64_t before = head * arguments.rows;
  const AUXCORE_GLOBAL float* const weights =
      global<const float>(reinterpret_cast<uint64_t>(arguments.weights)) + before * arguments.positions + position;
  const AUXCORE_GLOBAL TilePart* const parts = global<const TilePart>(reinterpret_cast<uint64_t>(arguments.parts)) +
                                               before * arguments.key_tiles + position / kTileKeys;
  float score = 0;
  int32_t row = 0;
  for (; row + kAtOnce <= arguments.rows; row += kAtOnce) {
    float some[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      some[k] = weights[int64_t{row + k} * arguments.positions];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      score = fmaf(some[k], parts[int64_t{row + k} * arguments.key_tiles].greatest, score);
  }
  for (; row < arguments.rows; ++row)
    score = fmaf(weights[int64_t{row} * arguments.positions], parts[int64_t{row} * arguments.key_tiles].greatest, score);
  global<float>(reinterpret_cast<uint64_t>(arguments.scores))[head * arguments.positions + position] = score;
}
AUXCORE_KERNEL(auxcore_kv_window_collect)

}  // namespace auxcore::kv_window_scores
