// TokenMerge on CUDA, matching: who is most similar to whom, by cosine. A tile of 64 tokens meets a chunk of the candidates, 64 at a time;
// the best of each chunk is kept, and the chunks are merged in their order, so that the lower of equals wins.
#include "token_merge.cuh"

#include "token_cosine.cuh"
#include "token_rank.cuh"
#include "token_tiles.cuh"

namespace auxcore::token_merge {
namespace {

using namespace tokens;

static_assert(kTileTokens == kTile && kThreads == kTileThreads);

__device__ __forceinline__ float unit(const Match& match, int32_t token, int32_t k) {
  return tokens::unit(match.metric, match.type, token, match.depth, k, match.scales[token]);
}

struct Best {
  float similarity;
  int32_t place;
};

/// The greater; of equals the lower place; NaN is below all. By values: a choice of places in memory would keep them on the stack.
__device__ __forceinline__ Best better(Best a, Best b) {
  const float first = a.similarity, second = b.similarity;
  const int32_t first_place = a.place, second_place = b.place;
  const bool takes = second > first || (first != first && second == second) || (second == first && second_place < first_place);
  return {takes ? second : first, takes ? second_place : first_place};
}

/// The best of all chunks, held within the candidates: where segments overlap, not all tiles were formed.
__device__ __forceinline__ Best best_of(const Match& match, int64_t at, int32_t candidates) {
  Best best = {match.similarities[at], match.nearest[at]};
  for (int32_t chunk = 1; chunk < match.chunks; ++chunk) {
    const int64_t place = int64_t{chunk} * match.tokens + at;
    best = better(best, {match.similarities[place], match.nearest[place]});
  }
  return {best.similarity, unsigned(best.place) < unsigned(candidates) ? best.place : 0};
}

/// Tokens at even places that may be merged away.
__device__ __forceinline__ int32_t bipartite_sources(const Match& match, int32_t length) {
  const int32_t kept = (least(match.protect, length) + 1) / 2;
  return length < 2 ? 0 : (length + 1) / 2 - kept;
}

/// Writes the tokens that a predicate names to a list, in order; how many they are. Every thread of the block calls it.
template <class Predicate>
__device__ __forceinline__ int32_t listed(
    const Segment& segment, int32_t* list, unsigned* scratch, const Predicate& predicate) {
  int32_t count = 0;
  for (int32_t from = 0; from < segment.length; from += kRankThreads) {
    const int32_t i = from + int32_t(threadIdx.x);
    const bool is_in = i < segment.length && predicate(i);
    const int32_t place = count + int32_t(block_sum_before<kRankThreads>(is_in ? 1u : 0u, scratch));
    if (is_in)
      list[place] = segment.first + i;
    count += int32_t(block_sum<kRankThreads>(is_in ? 1u : 0u, scratch));
  }
  return count;
}

}  // namespace

/// A warp a token.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_match_norms(Match match) {
  AUXCORE_SHARED(double, scratch, kThreads);
  const int64_t token = int64_t{blockIdx.x} * (kThreads / kWarp) + own_warp();
  const int32_t depth = token < match.tokens ? match.depth : 0;
  const double squares = sum_of_squares(match.metric, match.type, token, depth, scratch + own_warp() * kWarp);
  if (own_lane() == 0 && token < match.tokens)
    match.scales[token] = scale_of(squares);
}
AUXCORE_KERNEL(auxcore_match_norms)

/// A block a segment: who looks, and among whom.
extern "C" __global__ void __launch_bounds__(kRankThreads) auxcore_match_lists(Match match) {
  AUXCORE_SHARED(unsigned, scratch, kRankThreads / kWarp);
  const Segment segment(match.bounds, int32_t(blockIdx.x), match.tokens);
  int32_t* const sources = match.sources + segment.first;
  int32_t* const candidates = match.candidates + segment.first;
  int32_t source_count, candidate_count;
  if (match.is_bipartite) {
    source_count = bipartite_sources(match, segment.length);
    candidate_count = segment.length / 2;
    const int32_t first = (segment.length + 1) / 2 - source_count;
    for (int32_t i = int32_t(threadIdx.x); i < source_count; i += kRankThreads)
      sources[i] = segment.first + 2 * (first + i);
    for (int32_t i = int32_t(threadIdx.x); i < candidate_count; i += kRankThreads)
      candidates[i] = segment.first + 2 * i + 1;
  } else {
    const int32_t* const slots = match.slots + segment.first;
    source_count = listed(segment, sources, scratch, [&](int32_t i) { return slots[i] < 0; });
    candidate_count = listed(segment, candidates, scratch, [&](int32_t i) {
      return slots[i] >= 0 && (match.targets == nullptr || match.targets[segment.first + i] != 0);
    });
  }
  if (threadIdx.x == 0) {
    match.counts[2 * blockIdx.x] = source_count;
    match.counts[2 * blockIdx.x + 1] = candidate_count;
  }
}
AUXCORE_KERNEL(auxcore_match_lists)

/// A block a tile of sources and a chunk of their candidates.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_match_nearest(Match match) {
  AUXCORE_TILE_SPACE(space);
  const int32_t chunk = int32_t(blockIdx.x) % match.chunks;
  int32_t tile = int32_t(blockIdx.x) / match.chunks, b = 0, source_count = 0;
  for (; b < match.segments; ++b) {
    source_count = match.counts[2 * b];
    const int32_t tiles = (source_count + kTile - 1) / kTile;
    if (tile < tiles)
      break;
    tile -= tiles;
  }
  if (b == match.segments)
    return;
  const Segment segment(match.bounds, b, match.tokens);
  const int32_t first_source = tile * kTile, candidate_count = match.counts[2 * b + 1];
  const int32_t tiles = (candidate_count + kTile - 1) / kTile;
  const int32_t last = least(candidate_count, int32_t(int64_t{tiles} * (chunk + 1) / match.chunks) * kTile);
  const int32_t* const sources = match.sources + segment.first + first_source;
  const int32_t* const candidates = match.candidates + segment.first;
  const float nan = as_float(0x7fc00000u);
  Best best[4] = {{nan, 0}, {nan, 0}, {nan, 0}, {nan, 0}};
  for (int32_t from = int32_t(int64_t{tiles} * chunk / match.chunks) * kTile; from < last; from += kTile) {
    const TileSums similarities = tile_products(
        match.depth, space,
        [&](int32_t row, int32_t k) {
          return first_source + row < source_count ? unit(match, sources[row], k) : 0.0f;
        },
        [&](int32_t row, int32_t k) {
          return from + row < last ? unit(match, candidates[from + row], k) : 0.0f;
        });
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        if (from + tile_column() + c < last)
          best[r] = better(best[r], {similarities.at[r][c], from + tile_column() + c});
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
#pragma unroll
    for (int lane = kTilePart / 2; lane > 0; lane /= 2)
      best[r] = better(
          best[r], {__shfl_xor_sync(kAllLanes, best[r].similarity, lane), __shfl_xor_sync(kAllLanes, best[r].place, lane)});
    const int32_t i = first_source + tile_row() + r;
    if (tile_column() != 0 || i >= source_count)
      continue;
    const int64_t at = int64_t{chunk} * match.tokens + segment.first + i;
    match.similarities[at] = best[r].similarity;
    match.nearest[at] = best[r].similarity == best[r].similarity ? best[r].place : 0;
  }
}
AUXCORE_KERNEL(auxcore_match_nearest)

/// A block a segment: each token without a slot gets that of its nearest.
extern "C" __global__ void __launch_bounds__(kRankThreads) auxcore_match_assign(Match match) {
  const Segment segment(match.bounds, int32_t(blockIdx.x), match.tokens);
  const int32_t candidates = match.counts[2 * blockIdx.x + 1];
  if (candidates == 0)
    return;
  for (int32_t i = int32_t(threadIdx.x); i < match.counts[2 * blockIdx.x]; i += kRankThreads) {
    const int32_t place = best_of(match, segment.first + i, candidates).place;
    match.slots[match.sources[segment.first + i]] = match.slots[match.candidates[segment.first + place]];
  }
}
AUXCORE_KERNEL(auxcore_match_assign)

/// A block a segment: the most similar pairs are merged, all other tokens numbered in their order.
extern "C" __global__ void __launch_bounds__(kRankThreads) auxcore_match_bipartite(Match match) {
  AUXCORE_RANK_SPACE(space);
  const Segment segment(match.bounds, int32_t(blockIdx.x), match.tokens);
  const int32_t sources = match.counts[2 * blockIdx.x], gone = least(match.merged, sources);
  unsigned kept_before = 0;
  for (int32_t b = int32_t(threadIdx.x); b < int32_t(blockIdx.x); b += kRankThreads) {
    const int32_t length = Segment(match.bounds, b, match.tokens).length;
    kept_before += unsigned(length - least(match.merged, bipartite_sources(match, length)));
  }
  int32_t slot = int32_t(block_sum<kRankThreads>(kept_before, space.words));
  if (threadIdx.x == 0) {
    if (blockIdx.x == 0)
      match.offsets[0] = 0;
    match.offsets[blockIdx.x + 1] = slot + segment.length - gone;
  }
  for (int32_t i = int32_t(threadIdx.x); i < sources; i += kRankThreads) {
    const Best best = best_of(match, segment.first + i, match.counts[2 * blockIdx.x + 1]);
    match.similarities[segment.first + i] = best.similarity;
    match.nearest[segment.first + i] = best.place;
  }
  for (int32_t i = int32_t(threadIdx.x); i < segment.length; i += kRankThreads)
    match.slots[segment.first + i] = 0;
  __syncthreads();
  const Scores similarities = {match.similarities + segment.first, nullptr, kFloat32, sources};
  Cut cut = {kAlways, 0, 0, 0};
  if (gone > 0) {
    const Ranked last = largest(similarities, [](int32_t, float score) { return key_of(score); }, gone, space);
    cut = {last.key, gone - last.above, gone, 0};
  }
  emit_kept(similarities, cut, space, [&](int32_t i, int32_t place) {
    if (place >= 0)
      match.slots[match.sources[segment.first + i]] = -1;
  });
  __syncthreads();
  for (int32_t from = 0; from < segment.length; from += kRankThreads) {
    const int32_t i = from + int32_t(threadIdx.x);
    const bool stays = i < segment.length && match.slots[segment.first + i] >= 0;
    const int32_t place = slot + int32_t(block_sum_before<kRankThreads>(stays ? 1u : 0u, space.words));
    if (stays)
      match.slots[segment.first + i] = place;
    slot += int32_t(block_sum<kRankThreads>(stays ? 1u : 0u, space.words));
  }
  __syncthreads();
  for (int32_t i = int32_t(threadIdx.x); i < sources; i += kRankThreads) {
    const int32_t token = match.sources[segment.first + i];
    if (match.slots[token] < 0)
      match.slots[token] = match.slots[match.candidates[segment.first + match.nearest[segment.first + i]]];
  }
}
AUXCORE_KERNEL(auxcore_match_bipartite)

}  // namespace auxcore::token_merge
