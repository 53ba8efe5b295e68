// TokenDiversity on CUDA: all similarities of a segment by tiles of 64 x 64, the upper triangle and its mirror image; each token's nearest;
// then a block a segment chooses, and with each token that it takes reads one row of similarities.
#include "token_diversity.cuh"

#include "token_cosine.cuh"
#include "token_rank.cuh"
#include "token_tiles.cuh"

namespace auxcore::token_diversity {
namespace {

using namespace tokens;

static_assert(kTileTokens == kTile && kThreads == kTileThreads);

/// The tokens of a segment that are looked at.
__device__ __forceinline__ Segment segment_of(const Arguments& arguments, int32_t b) {
  Segment segment(arguments.bounds, b, arguments.tokens);
  segment.length = least(segment.length, arguments.longest);
  return segment;
}

__device__ __forceinline__ bool is_spoiled(const Arguments& arguments, int32_t token) { return arguments.scales[token] < 0; }

__device__ __forceinline__ float element(const Arguments& arguments, int32_t token, int32_t k) {
  const double scale = arguments.scales[token];
  return scale < 0 ? 0.0f : unit(arguments.source, arguments.type, token, arguments.width, k, scale);
}

/// The segment of the block's token and the token's place there; length 0 where it is in none.
__device__ __forceinline__ Segment segment_with(const Arguments& arguments, int32_t token) {
  for (int32_t b = 0; b < arguments.segments; ++b) {
    const Segment segment = segment_of(arguments, b);
    if (token >= segment.first && token - segment.first < segment.length)
      return segment;
  }
  Segment none = segment_of(arguments, 0);
  none.length = 0;
  return none;
}

/// The least over a block, for all of its threads.
__device__ AUXCORE_TOKEN_INLINE uint64_t block_least(uint64_t value, uint64_t* scratch) {
#pragma unroll
  for (int with = kWarp / 2; with > 0; with /= 2)
    value = least(value, shuffled_xor(value, with));
  if (own_lane() == 0)
    scratch[own_warp()] = value;
  __syncthreads();
  uint64_t smallest = scratch[0];
#pragma unroll
  for (int warp = 1; warp < kRankThreads / kWarp; ++warp)
    smallest = least(smallest, scratch[warp]);
  __syncthreads();
  return smallest;
}

/// Similarities in their order, and of equals the lower place first.
__device__ __forceinline__ uint64_t ranked(float similarity, int32_t place) {
  return uint64_t(key_of(similarity)) << 32 | uint32_t(place);
}

}  // namespace

/// A warp a token.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_diversity_norms(Arguments arguments) {
  AUXCORE_SHARED(double, scratch, kThreads);
  const int64_t token = int64_t{blockIdx.x} * (kThreads / kWarp) + own_warp();
  const int32_t width = token < arguments.tokens ? arguments.width : 0;
  const double squares = sum_of_squares(arguments.source, arguments.type, token, width, scratch + own_warp() * kWarp);
  if (own_lane() == 0 && token < arguments.tokens) {
    const bool is_finite = squares - squares == 0;
    arguments.scales[token] = is_finite ? scale_of(squares) : -1;
  }
}
AUXCORE_KERNEL(auxcore_diversity_norms)

/// A block a tile of a segment's similarities.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_diversity_similarities(Arguments arguments) {
  AUXCORE_TILE_SPACE(space);
  const int32_t columns = (arguments.longest + kTile - 1) / kTile, first_column = int32_t(blockIdx.x) % columns * kTile;
  int32_t tile = int32_t(blockIdx.x) / columns, b = 0, length = 0;
  for (; b < arguments.segments; ++b) {
    length = segment_of(arguments, b).length;
    const int32_t tiles = (length + kTile - 1) / kTile;
    if (tile < tiles)
      break;
    tile -= tiles;
  }
  const int32_t first_row = tile * kTile;
  if (b == arguments.segments || first_column < first_row || first_column >= length)
    return;
  const int32_t first = segment_of(arguments, b).first;
  const TileSums sums = tile_products(
      arguments.width, space,
      [&](int32_t row, int32_t k) { return first_row + row < length ? element(arguments, first + first_row + row, k) : 0.0f; },
      [&](int32_t row, int32_t k) { return first_column + row < length ? element(arguments, first + first_column + row, k) : 0.0f; });
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int32_t i = first_row + tile_row() + r, j = first_column + tile_column() + c;
      if (i > j || j >= length)
        continue;
      arguments.similarities[int64_t{first + i} * arguments.longest + j] = sums.at[r][c];
      if (i < j)
        arguments.similarities[int64_t{first + j} * arguments.longest + i] = sums.at[r][c];
    }
}
AUXCORE_KERNEL(auxcore_diversity_similarities)

/// A warp a token: how similar the most similar other one is.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_diversity_nearest(Arguments arguments) {
  const int64_t token = int64_t{blockIdx.x} * (kThreads / kWarp) + own_warp();
  if (token >= arguments.tokens)
    return;
  const Segment segment = segment_with(arguments, int32_t(token));
  const float* const row = arguments.similarities + token * arguments.longest;
  float nearest = -infinity();
  for (int32_t j = own_lane(); j < segment.length; j += kWarp)
    if (segment.first + j != token && !is_spoiled(arguments, segment.first + j))
      nearest = most(nearest, row[j]);
#pragma unroll
  for (int with = kWarp / 2; with > 0; with /= 2)
    nearest = most(nearest, __shfl_xor_sync(kAllLanes, nearest, with));
  if (own_lane() == 0)
    arguments.nearest[token] = nearest;
}
AUXCORE_KERNEL(auxcore_diversity_nearest)

/// A block a segment. A token that is chosen or spoiled is infinitely similar, and so never the least. What a thread writes for its own
/// tokens no other thread reads before the end.
extern "C" __global__ void __launch_bounds__(kRankThreads) auxcore_diversity_choose(Arguments arguments) {
  AUXCORE_SHARED(uint64_t, least_of_warps, kRankThreads / kWarp);
  AUXCORE_SHARED(unsigned, words, kRankThreads / kWarp);
  const Segment segment = segment_of(arguments, int32_t(blockIdx.x));
  const int32_t count = least(arguments.count, segment.length);
  unsigned kept_before = 0, own_spoiled = 0;
  for (int32_t b = int32_t(threadIdx.x); b < int32_t(blockIdx.x); b += kRankThreads)
    kept_before += unsigned(least(arguments.count, segment_of(arguments, b).length));
  int32_t slot = int32_t(block_sum<kRankThreads>(kept_before, words));
  uint64_t own = ~uint64_t{0};
  for (int32_t i = int32_t(threadIdx.x); i < segment.length; i += kRankThreads) {
    const int32_t token = segment.first + i;
    arguments.is_chosen[token] = 0;
    if (is_spoiled(arguments, token)) {
      arguments.nearest[token] = infinity();
      ++own_spoiled;
    }
    own = least(own, ranked(arguments.nearest[token], i));
  }
  const int32_t spoiled = int32_t(block_sum<kRankThreads>(own_spoiled, words)), whole = least(count, segment.length - spoiled);

  for (int32_t kept = 0; kept < whole; ++kept) {
    const int32_t best = int32_t(uint32_t(block_least(own, least_of_warps)));
    const float* const row = arguments.similarities + int64_t{segment.first + best} * arguments.longest;
    own = ~uint64_t{0};
    for (int32_t i = int32_t(threadIdx.x); i < segment.length; i += kRankThreads) {
      const int32_t token = segment.first + i;
      float nearest = arguments.nearest[token];
      if (i == best) {
        nearest = infinity();
        arguments.is_chosen[token] = 1;
      } else if (!is_spoiled(arguments, token)) {
        nearest = kept == 0 ? row[i] : most(nearest, row[i]);
      }
      arguments.nearest[token] = nearest;
      own = least(own, ranked(nearest, i));
    }
  }

  // What is spoiled comes when nothing else is left, in the order of the indices.
  int32_t wanted = count - whole;
  if (threadIdx.x == 0) {
    if (blockIdx.x == 0)
      arguments.offsets[0] = 0;
    arguments.offsets[blockIdx.x + 1] = slot + count;
    if (arguments.nan_counts != nullptr)
      arguments.nan_counts[blockIdx.x] = spoiled;
  }
  for (int32_t from = 0; from < segment.length; from += kRankThreads) {
    const int32_t i = from + int32_t(threadIdx.x), token = segment.first + i;
    const bool is_left = i < segment.length && is_spoiled(arguments, token);
    const int32_t left_before = int32_t(block_sum_before<kRankThreads>(is_left ? 1u : 0u, words));
    const bool is_kept = i < segment.length && (is_left ? left_before < wanted : arguments.is_chosen[token] != 0);
    const int32_t place = slot + int32_t(block_sum_before<kRankThreads>(is_kept ? 1u : 0u, words));
    wanted -= int32_t(block_sum<kRankThreads>(is_left ? 1u : 0u, words));
    slot += int32_t(block_sum<kRankThreads>(is_kept ? 1u : 0u, words));
    if (i >= segment.length)
      continue;
    if (arguments.slots != nullptr)
      arguments.slots[token] = is_kept ? place : -1;
    if (is_kept && place < arguments.capacity)
      arguments.indices[place] = token;
  }
}
AUXCORE_KERNEL(auxcore_diversity_choose)

}  // namespace auxcore::token_diversity
