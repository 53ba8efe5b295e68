// KvAppend on CUDA. The formulas are in src/Kernels/KvApproximation/KvAppend.cs.
//
// A block has some of the heads of one token, a warp each, and the cosines and sines of the token's position, which they share.
//
// In KIVI-4 rows go into a ring, and what leaves the window is quantised: by a launch of its own before that, while the ring still has what
// the call's tokens will take the place of. What leaves is the business of the token at whose position it does; where rows of the call
// itself leave, they are made once more. So what is stored depends on positions alone, and one by one as in bulk.
#include "kv_append.cuh"

#include "kv_head.cuh"

namespace auxcore::kv_append {

using namespace kv;

extern "C" __global__ void __launch_bounds__(kHeadThreads) auxcore_kv_append(Arguments arguments) {
  AUXCORE_SHARED(float, cosines, kMostPairs);
  AUXCORE_SHARED(float, sines, kMostPairs);
  AUXCORE_SHARED(float, rows, kHeadWarps * kMostHeadDim);
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp, d = arguments.cache.head_dim;
  const int32_t queries = arguments.query_heads, stored = arguments.cache.kv_heads, heads = queries + 2 * stored;
  const int32_t blocks = (heads + kHeadWarps - 1) / kHeadWarps;  // of a token
  const int32_t token = int32_t(blockIdx.x / unsigned(blocks)), head = int32_t(blockIdx.x % unsigned(blocks)) * kHeadWarps + warp;
  static_assert(kHeadThreads >= kMostPairs);
  turn(arguments.tokens, token, int(threadIdx.x), cosines, sines);
  __syncthreads();
  if (head >= heads)
    return;
  const bool is_query = head < queries, is_key = !is_query && head < queries + stored;
  TokenRows source = arguments.values;  // a copy: parameters that are chosen by address would have to be in memory
  Plane plane = arguments.cache.values;
  if (is_query) {
    source = arguments.query;
  } else if (is_key) {
    source = arguments.keys;
    plane = arguments.cache.keys;
  }
  const int32_t own = is_query ? head : is_key ? head - queries : head - queries - stored;
  float* const row = rows + warp * kMostHeadDim;
  load_head(row, source, arguments.tokens, token, own, d, lane);
  if (is_query || is_key)
    rotate(row, cosines, sines, arguments.tokens.pairs, arguments.tokens.is_in_pairs != 0, lane);
  if (!is_query)
    return store_head(row, arguments.cache, plane, arguments.tokens, token, own, lane);
  AUXCORE_GLOBAL float* const to =
      global<float>(arguments.rotated_query + uint64_t(token * arguments.rotated_step + int64_t{own} * d * 4));
  for (int i = lane; i < d; i += kWarp)
    to[i] = row[i];
}
AUXCORE_KERNEL(auxcore_kv_append)

namespace {

/// The row of a position at or before the token's: of the call's, or from the ring. Frequencies: of keys, null for values.
__device__ __forceinline__ void load_earlier(float* row, const Arguments& arguments, const Plane& plane, const TokenRows& source,
    int32_t token, int32_t sequence, int32_t head, int32_t slot, int32_t position, const double* frequencies, int lane) {
  const Tokens& tokens = arguments.tokens;
  const int d = arguments.cache.head_dim;
  const int32_t other = token_beside(arguments.cache, tokens, token, sequence, position - slot, lane);
  if (other < 0) {
    const AUXCORE_GLOBAL float* const from = global<const float>(ring_row(arguments.cache, plane, sequence, head, position));
    for (int i = lane; i < d; i += kWarp)
      row[i] = from[i];
    __syncwarp();
    return;
  }
  load_head(row, source, tokens, other, head, d, lane);
  if (frequencies == nullptr)
    return;
  for (int pair = lane; pair < tokens.pairs; pair += kWarp) {
    double sine, cosine;
    sine_cosine(__dmul_rn(double(tokens.positions[other]), frequencies[pair]), sine, cosine);
    rotate_pair(row, pair, tokens.pairs, tokens.is_in_pairs != 0, float(cosine), float(sine));
  }
  __syncwarp();
}

}  // namespace

/// What leaves the window when a token comes, a block for each of its heads: a value, and at each 32nd position a block of keys, which
/// shared memory [32, d + 1] transposes.
extern "C" __global__ void __launch_bounds__(kHeadThreads) auxcore_kv_append_leaving(Arguments arguments) {
  AUXCORE_DYNAMIC_SHARED(float, rows);
  AUXCORE_SHARED(float, value, kMostHeadDim);
  AUXCORE_SHARED(double, frequencies, kMostPairs);
  const Cache& cache = arguments.cache;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp, d = cache.head_dim, pitch = d + 1;
  const int32_t token = int32_t(blockIdx.x / unsigned(cache.kv_heads)), head = int32_t(blockIdx.x % unsigned(cache.kv_heads));
  const int32_t sequence = sequence_of(cache, arguments.tokens, token), slot = slot_of(cache, arguments.tokens, token, head);
  if (unsigned(sequence) >= unsigned(cache.batch) || unsigned(slot) >= unsigned(HeadTable(cache, sequence, head).capacity))
    return;

  if (cache.values.format == kKivi && warp == 0) {
    const int32_t position = slot - (cache.values.ring_positions - kGroup);
    const uint64_t to = position < 0 ? 0 : place_of(cache, cache.values, sequence, head, position);
    if (to != 0) {
      load_earlier(value, arguments, cache.values, arguments.values, token, sequence, head, slot, position, nullptr, lane);
      store_groups<kKivi>(value, to, d, lane);
    }
  }

  const int32_t left = slot + 1 - (cache.keys.ring_positions - kGroup);
  if (cache.keys.format != kKivi || left <= 0 || left % kGroup != 0)
    return;
  if (threadIdx.x < kMostPairs)
    frequencies[threadIdx.x] = frequency_of(arguments.tokens, int(threadIdx.x));
  __syncthreads();
  for (int i = warp; i < kGroup; i += kHeadWarps)
    load_earlier(
        rows + i * pitch, arguments, cache.keys, arguments.keys, token, sequence, head, slot, left - kGroup + i, frequencies, lane);
  __syncthreads();
  const uint64_t to = place_of(cache, cache.keys, sequence, head, left - kGroup);
  const int lane_of_group = lane % kGroupLanes;
  for (int channel = int(threadIdx.x) / kGroupLanes; channel < d; channel += kHeadThreads / kGroupLanes) {
    Four four;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      four.x[i] = rows[(lane_of_group * 4 + i) * pitch + channel];
    uint32_t scales;
    const uint32_t packed = quantise_group<kKivi>(four, lane_of_group, scales);
    if (to != 0)
      store_group<kKivi>(global<uint16_t>(to + uint64_t(channel * kKiviBytes)), lane_of_group, scales, packed);
  }
}
AUXCORE_KERNEL(auxcore_kv_append_leaving)

}  // namespace auxcore::kv_append
