// KvAppend on CUDA. The formulas are in src/Kernels/KvApproximation/KvAppend.cs.
//
// A block has some of the heads of one token, a warp each, and the cosines and sines of the token's position, which they share.
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

}  // namespace auxcore::kv_append
