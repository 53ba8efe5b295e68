// KvPredictWrite on CUDA. The formulas are in src/Kernels/KvApproximation/KvPredictWrite.cs.
//
// A block has some of the heads of one token of one layer, a warp each. Which layer it is follows from the block's number; where layers lie
// comes as a parameter of the kernel, so nothing is uploaded and a graph can capture it.
#include "kv_predict_write.cuh"

#include "kv_head.cuh"

namespace auxcore::kv_predict_write {

namespace {

using namespace kv;

// Field by field: what is chosen by address would have to be in memory, and parameters would be copied there.
template <class T>
__device__ __forceinline__ T chosen(bool is_first, T first, T second) {
  return is_first ? first : second;
}

__device__ __forceinline__ TokenRows chosen(bool is_first, const TokenRows& first, const TokenRows& second) {
  return {chosen(is_first, first.first, second.first), chosen(is_first, first.step, second.step),
      chosen(is_first, first.bias, second.bias), chosen(is_first, first.norm, second.norm)};
}

__device__ __forceinline__ Plane chosen(bool is_first, const Plane& first, const Plane& second) {
  return {chosen(is_first, first.first, second.first), chosen(is_first, first.outer_step, second.outer_step),
      chosen(is_first, first.head_step, second.head_step), chosen(is_first, first.scales, second.scales),
      chosen(is_first, first.scale_count, second.scale_count), chosen(is_first, first.format, second.format),
      chosen(is_first, first.row_bytes, second.row_bytes), chosen(is_first, first.outer_count, second.outer_count),
      chosen(is_first, first.ring, second.ring), chosen(is_first, first.ring_positions, second.ring_positions)};
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kHeadThreads) auxcore_kv_predict_layers(Arguments arguments) {
  AUXCORE_SHARED(float, cosines, kMostPairs);
  AUXCORE_SHARED(float, sines, kMostPairs);
  AUXCORE_SHARED(float, rows, kHeadWarps * kMostHeadDim);
  int32_t which = 0;
  while (which + 1 < arguments.layer_count && int64_t(blockIdx.x) >= arguments.layers[which + 1].first_block)
    ++which;
  const Cache cache = arguments.layers[which].cache;
  const unsigned block = unsigned(blockIdx.x - arguments.layers[which].first_block);
  const unsigned blocks = (2 * unsigned(cache.kv_heads) + kHeadWarps - 1) / kHeadWarps;  // of a token
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int32_t token = int32_t(block / blocks);
  const int64_t head = int64_t(block % blocks) * kHeadWarps + warp;
  turn(arguments.tokens, token, int(threadIdx.x), cosines, sines);
  __syncthreads();
  if (head >= 2 * int64_t{cache.kv_heads})
    return;
  const bool is_key = head < cache.kv_heads;
  const TokenRows source = chosen(is_key, arguments.layers[which].keys, arguments.layers[which].values);
  const Plane plane = chosen(is_key, cache.keys, cache.values);
  const int32_t own = int32_t(is_key ? head : head - cache.kv_heads);
  float* const row = rows + warp * kMostHeadDim;
  load_head(row, source, arguments.tokens, token, own, cache.head_dim, lane);
  if (is_key)
    rotate(row, cosines, sines, arguments.tokens.pairs, arguments.tokens.is_in_pairs != 0, lane);
  store_head(row, cache, plane, arguments.tokens, token, own, lane);
}
AUXCORE_KERNEL(auxcore_kv_predict_layers)

}  // namespace auxcore::kv_predict_write
