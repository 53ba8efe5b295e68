// TokenScores on CUDA. Nothing is added atomically: every sum has one order, and the bits are the same each time.
//
// Few rows share a head of keys (the last row, a class token): a first launch reads the keys once and leaves logits and, for each chunk of
// keys, softmaxes; a second one merges those and adds up columns. A warp takes 32 logits at a time, of 1 x 32, 4 x 8 or 8 x 4 rows and
// keys, its lanes the elements of a head; the sums over lanes change places as they are formed, so 32 of them take 31 shuffles.
//
// Many rows: tiles of 64 x 64 logits. If the log-sum-exp is not given, a first launch finds it, row by row; the next one forms the tiles
// once more, a tile of keys and some heads a block, and adds up columns; the last one adds the blocks' sums. No matrix is ever stored.
#include "token_scores.cuh"

#include "token_tiles.cuh"

namespace auxcore::token_scores {
namespace {

using namespace tokens;

static_assert(kTileRows == kTile && kThreads == kTileThreads);

/// The greater of two, NaN where either is.
__device__ __forceinline__ float greater(float a, float b) { return b > a || b != b ? b : a; }

/// A softmax and another logit.
__device__ __forceinline__ Softmax with(const Softmax& softmax, float logit) {
  const float largest = greater(softmax.largest, logit);
  const double before = softmax.largest == largest ? softmax.sum : softmax.sum * double(exp_of(softmax.largest - largest));
  return {before + (logit == largest ? 1.0 : double(exp_of(logit - largest))), largest, 0};
}

__device__ __forceinline__ Softmax merged(const Softmax& a, const Softmax& b) {
  const float largest = greater(a.largest, b.largest);
  const auto relative = [&](const Softmax& one) {
    return one.largest == largest ? one.sum : one.sum * double(exp_of(one.largest - largest));
  };
  return {relative(a) + relative(b), largest, 0};
}

__device__ __forceinline__ Softmax none() { return {0, -infinity(), 0}; }

__device__ __forceinline__ Softmax shuffled(const Softmax& softmax, int with_lane) {
  uint64_t bits;
  __builtin_memcpy(&bits, &softmax.sum, sizeof bits);
  bits = shuffled_xor(bits, with_lane);
  Softmax other = {0, __shfl_xor_sync(kAllLanes, softmax.largest, with_lane), 0};
  __builtin_memcpy(&other.sum, &bits, sizeof bits);
  return other;
}

__device__ __forceinline__ int32_t seen(const Arguments& arguments, int32_t row) {
  return arguments.causal ? arguments.tokens - arguments.rows + row + 1 : arguments.tokens;
}

__device__ __forceinline__ float query(const Arguments& arguments, int64_t b, int32_t head, int32_t row, int32_t k) {
  const Steps& steps = arguments.query_steps;
  return product(load(arguments.queries, arguments.type, b * steps.batch + head * steps.head + row * steps.row + k), arguments.scale);
}

__device__ __forceinline__ int64_t key_at(const Arguments& arguments, int64_t b, int32_t head, int32_t token) {
  return b * arguments.key_steps.batch + head * arguments.key_steps.head + token * arguments.key_steps.row;
}

/// The sums over lanes of 2 kHalf numbers a lane; in the end, lane l has that of number l.
template <int kHalf>
__device__ __forceinline__ float transposed_sum(float (&values)[kWarp]) {
  const bool is_upper = (own_lane() & kHalf) != 0;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float low = values[i], high = values[i + kHalf];
    values[i] = (is_upper ? high : low) + __shfl_xor_sync(kAllLanes, is_upper ? low : high, kHalf);
  }
  if constexpr (kHalf > 1)
    return transposed_sum<kHalf / 2>(values);
  else
    return values[0];
}

/// Products of kKeys keys with kRows staged queries; T is the type of the keys.
template <class T, int kRows>
__device__ __forceinline__ void add_products(const Arguments& arguments, const int64_t (&keys)[kWarp / kRows], int32_t from,
    int32_t staged, const float* queries, float (&sums)[kWarp]) {
  constexpr int kKeys = kWarp / kRows;
  const T* elements = static_cast<const T*>(arguments.keys) + from;
  for (int32_t k = own_lane(); k < staged; k += kWarp) {
    float values[kKeys];
#pragma unroll
    for (int j = 0; j < kKeys; ++j)
      values[j] = load(elements + keys[j] + k);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float q = queries[r * kStagedDepth + k];
#pragma unroll
      for (int j = 0; j < kKeys; ++j)
        sums[r * kKeys + j] = fmaf(q, values[j], sums[r * kKeys + j]);
    }
  }
}

/// A chunk of one head's keys against all rows that share it, kRows at a time.
template <int kRows>
__device__ AUXCORE_TOKEN_INLINE void few_rows(const Arguments& arguments) {
  constexpr int kKeys = kWarp / kRows, kWarps = kThreads / kWarp, kTogether = kWarps * kKeys;
  AUXCORE_SHARED(float, staged, kRows * kStagedDepth);
  AUXCORE_SHARED(Softmax, softmaxes, kWarps * kRows);
  const int32_t chunk = int32_t(blockIdx.x) % arguments.chunks, unit = int32_t(blockIdx.x) / arguments.chunks;
  const int32_t key_head = unit % arguments.key_heads, b = unit / arguments.key_heads;
  const int32_t group = arguments.query_heads / arguments.key_heads, rows = group * arguments.rows;
  const int32_t steps = (arguments.tokens + kTogether - 1) / kTogether;
  const int32_t first_step = int32_t(int64_t{steps} * chunk / arguments.chunks);
  const int32_t last_step = int32_t(int64_t{steps} * (chunk + 1) / arguments.chunks);
  for (int32_t first_row = 0; first_row < rows; first_row += kRows) {
    // The lane's row, counted over the heads of the group, and its place among the keys.
    const int32_t row = first_row + own_lane() / kKeys;
    const int64_t place = (int64_t{b} * arguments.query_heads + key_head * group) * arguments.rows + row;
    Softmax own = none();
    for (int32_t step = first_step; step < last_step; ++step) {
      const int32_t first_key = step * kTogether + own_warp() * kKeys;
      int64_t keys[kKeys];
#pragma unroll
      for (int j = 0; j < kKeys; ++j)  // what is behind the last key is not looked at
        keys[j] = key_at(arguments, b, key_head, least(first_key + j, arguments.tokens - 1));
      float sums[kWarp];
#pragma unroll
      for (int i = 0; i < kWarp; ++i)
        sums[i] = 0;
      for (int32_t from = 0; from < arguments.depth; from += kStagedDepth) {
        const int32_t count = least(kStagedDepth, arguments.depth - from);
        if (step == first_step || arguments.depth > kStagedDepth) {
          __syncthreads();
          for (int32_t i = int32_t(threadIdx.x); i < kRows * count; i += kThreads) {
            const int32_t r = first_row + i / count, k = i % count;
            staged[i / count * kStagedDepth + k] =
                r < rows ? query(arguments, b, key_head * group + r / arguments.rows, r % arguments.rows, from + k) : 0.0f;
          }
          __syncthreads();
        }
        switch (arguments.type) {
          case kFloat32:
            add_products<float, kRows>(arguments, keys, from, count, staged, sums);
            break;
          case kBFloat16:
            add_products<bfloat16, kRows>(arguments, keys, from, count, staged, sums);
            break;
          default:
            add_products<float16, kRows>(arguments, keys, from, count, staged, sums);
        }
      }
      const float logit = transposed_sum<kWarp / 2>(sums);
      const int32_t token = first_key + own_lane() % kKeys;
      if (row >= rows || token >= arguments.tokens)
        continue;
      arguments.logits[place * arguments.tokens + token] = logit;
      if (token < seen(arguments, row % arguments.rows))
        own = with(own, logit);
    }
#pragma unroll
    for (int lane = kKeys / 2; lane > 0; lane /= 2)
      own = merged(own, shuffled(own, lane));
    __syncthreads();
    if (own_lane() % kKeys == 0)
      softmaxes[own_warp() * kRows + own_lane() / kKeys] = own;
    __syncthreads();
    if (int32_t(threadIdx.x) < kRows && first_row + int32_t(threadIdx.x) < rows) {
      Softmax all = softmaxes[threadIdx.x];
      for (int warp = 1; warp < kWarps; ++warp)
        all = merged(all, softmaxes[warp * kRows + int32_t(threadIdx.x)]);
      const int64_t at = (int64_t{b} * arguments.query_heads + key_head * group) * arguments.rows + first_row + int32_t(threadIdx.x);
      arguments.softmaxes[at * arguments.chunks + chunk] = all;
    }
  }
}

__device__ __forceinline__ double weight(const Arguments& arguments, int32_t head) {
  return arguments.head_weights == nullptr ? arguments.weight : double(arguments.head_weights[head]);
}

/// exp(logit - largest) · factor is what a row gives to a key.
struct Normalisation {
  double factor;
  float largest;
};

/// Of a row, counted over batch and heads.
__device__ __forceinline__ Normalisation normalisation(const Arguments& arguments, int64_t row) {
  const int32_t head = int32_t(row / arguments.rows % arguments.query_heads);
  const double own = weight(arguments, head);
  if (arguments.log_sum_exp != nullptr)
    return {own, arguments.log_sum_exp[row]};
  Softmax all = arguments.softmaxes[row * arguments.chunks];
  for (int32_t chunk = 1; chunk < arguments.chunks; ++chunk)
    all = merged(all, arguments.softmaxes[row * arguments.chunks + chunk]);
  return {own / all.sum, all.largest};
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_token_logits_1(Arguments arguments) { few_rows<1>(arguments); }
AUXCORE_KERNEL(auxcore_token_logits_1)

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_token_logits_4(Arguments arguments) { few_rows<4>(arguments); }
AUXCORE_KERNEL(auxcore_token_logits_4)

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_token_logits_8(Arguments arguments) { few_rows<8>(arguments); }
AUXCORE_KERNEL(auxcore_token_logits_8)

/// A thread a key: the sum of its column over all heads and rows, in their order.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_token_columns(Arguments arguments, int32_t blocks_of_sequence) {
  AUXCORE_SHARED(Normalisation, rows, kRowsAtOnce);
  const int64_t b = int32_t(blockIdx.x) / blocks_of_sequence;
  const int64_t token = int64_t{int32_t(blockIdx.x) % blocks_of_sequence} * kThreads + threadIdx.x;
  const int32_t count = arguments.query_heads * arguments.rows;
  double sum = 0;
  for (int32_t first = 0; first < count; first += kRowsAtOnce) {
    const int32_t here = least(kRowsAtOnce, count - first);
    __syncthreads();
    for (int32_t i = int32_t(threadIdx.x); i < here; i += kThreads)
      rows[i] = normalisation(arguments, b * count + first + i);
    __syncthreads();
    for (int32_t i = 0; i < here && token < arguments.tokens; ++i) {
      if (token >= seen(arguments, (first + i) % arguments.rows))
        continue;
      const float logit = arguments.logits[(b * count + first + i) * arguments.tokens + token];
      sum += rows[i].factor * double(exp_of(logit - rows[i].largest));
    }
  }
  if (token < arguments.tokens)
    arguments.scores[b * arguments.tokens + token] = float(sum);
}
AUXCORE_KERNEL(auxcore_token_columns)

namespace {

/// The tile of logits of some rows of a head and some keys.
__device__ __forceinline__ TileSums logits(
    const Arguments& arguments, const TileSpace& space, int64_t b, int32_t head, int32_t first_row, int32_t first_key) {
  const int32_t key_head = head / (arguments.query_heads / arguments.key_heads);
  return tile_products(
      arguments.depth, space,
      [&](int32_t row, int32_t k) {
        return first_row + row < arguments.rows ? query(arguments, b, head, first_row + row, k) : 0.0f;
      },
      [&](int32_t key, int32_t k) {
        return first_key + key < arguments.tokens
            ? load(arguments.keys, arguments.type, key_at(arguments, b, key_head, first_key + key) + k)
            : 0.0f;
      });
}

}  // namespace

/// Many rows: the softmax of each row of a tile, over all keys.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_token_softmaxes(Arguments arguments, int32_t row_tiles) {
  AUXCORE_TILE_SPACE(space);
  const int32_t unit = int32_t(blockIdx.x) / row_tiles, first_row = int32_t(blockIdx.x) % row_tiles * kTile;
  const int32_t b = unit / arguments.query_heads, head = unit % arguments.query_heads;
  Softmax own[4] = {none(), none(), none(), none()};
  const int32_t last = least(arguments.tokens, seen(arguments, least(first_row + kTile, arguments.rows) - 1));
  for (int32_t first_key = 0; first_key < last; first_key += kTile) {
    const TileSums tile = logits(arguments, space, b, head, first_row, first_key);
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int32_t row = first_row + tile_row() + r;
        if (row < arguments.rows && first_key + tile_column() + c < seen(arguments, row))
          own[r] = with(own[r], tile.at[r][c]);
      }
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
#pragma unroll
    for (int lane = kTilePart / 2; lane > 0; lane /= 2)
      own[r] = merged(own[r], shuffled(own[r], lane));
    const int32_t row = first_row + tile_row() + r;
    if (tile_column() == 0 && row < arguments.rows)
      arguments.softmaxes[int64_t{unit} * arguments.rows + row] = own[r];
  }
}
AUXCORE_KERNEL(auxcore_token_softmaxes)

/// Many rows: what some heads give to the keys of a tile.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_token_column_tiles(Arguments arguments, int32_t key_tiles) {
  AUXCORE_TILE_SPACE(space);
  AUXCORE_SHARED(double, columns, kTilePart * kTile);
  const int32_t first_key = int32_t(blockIdx.x) % key_tiles * kTile, unit = int32_t(blockIdx.x) / key_tiles;
  const int32_t b = unit % arguments.batch, split = unit / arguments.batch;
  const int32_t first_head = int32_t(int64_t{arguments.query_heads} * split / arguments.splits);
  const int32_t last_head = int32_t(int64_t{arguments.query_heads} * (split + 1) / arguments.splits);
  const int32_t unseen = arguments.causal ? most(0, first_key - (arguments.tokens - arguments.rows)) / kTile * kTile : 0;
  double sums[4] = {0, 0, 0, 0};
  for (int32_t head = first_head; head < last_head; ++head)
    for (int32_t first_row = unseen; first_row < arguments.rows; first_row += kTile) {
      const TileSums tile = logits(arguments, space, b, head, first_row, first_key);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int32_t row = first_row + tile_row() + r;
        if (row >= arguments.rows)
          continue;
        const Normalisation own = normalisation(arguments, (int64_t{b} * arguments.query_heads + head) * arguments.rows + row);
#pragma unroll
        for (int c = 0; c < 4; ++c)
          if (first_key + tile_column() + c < seen(arguments, row))
            sums[c] += own.factor * double(exp_of(tile.at[r][c] - own.largest));
      }
    }
#pragma unroll
  for (int c = 0; c < 4; ++c)
    columns[tile_row() / 4 * kTile + tile_column() + c] = sums[c];
  __syncthreads();
  const int32_t token = first_key + int32_t(threadIdx.x);
  if (int32_t(threadIdx.x) >= kTile || token >= arguments.tokens)
    return;
  double sum = 0;
#pragma unroll
  for (int part = 0; part < kTilePart; ++part)
    sum += columns[part * kTile + int(threadIdx.x)];
  arguments.partial[(int64_t{split} * arguments.batch + b) * arguments.tokens + token] = sum;
}
AUXCORE_KERNEL(auxcore_token_column_tiles)

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_token_column_sums(Arguments arguments) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x, count = int64_t{arguments.batch} * arguments.tokens;
  if (at >= count)
    return;
  double sum = 0;
  for (int32_t split = 0; split < arguments.splits; ++split)
    sum += arguments.partial[split * count + at];
  arguments.scores[at] = float(sum);
}
AUXCORE_KERNEL(auxcore_token_column_sums)

}  // namespace auxcore::token_scores
