// KvAppend on CUDA. The formulas are in src/Kernels/KvApproximation/KvAppend.cs; roundings are those of KvHeadLoops.cs, so bytes are equal.
//
// A block has some of the heads of one token, a warp each, and the cosines and sines of the token's position, which they share. A head's
// row is in shared memory between its steps: norm, rotation and storing each want another lane to have an element.
#include "kv_append.cuh"

#include "../device/math.cuh"
#include "kv_cache.cuh"
#include "kv_codec.cuh"

namespace auxcore::kv_append {
namespace {

using namespace kv;

__device__ __forceinline__ float load_element(uint64_t row, int32_t type, int i) {
  if (type == kFloat32)
    return global<const float>(row)[i];
  const uint16_t bits = global<const uint16_t>(row)[i];
  return type == kFloat16 ? widen(float16{bits}) : widen(bfloat16{bits});
}

/// x <- w · x / √(mean(x²) + ε). Squares are summed as on the CPU: lane by lane in double, then the lanes in their order.
__device__ __forceinline__ void normalise(float* row, double* sums, const float* weights, int d, double epsilon, int lane) {
  double squares = 0;
  for (int i = lane; i < d; i += kWarp)
    squares = __fma_rn(double(row[i]), double(row[i]), squares);  // the product is exact
  sums[lane] = squares;
  __syncwarp();
  squares = 0;
  for (int i = 0; i < kWarp; ++i)
    squares = __dadd_rn(squares, sums[i]);
  const float inverse = float(1.0 / __dsqrt_rn(__dadd_rn(squares / d, epsilon)));
  for (int i = lane; i < d; i += kWarp)
    row[i] = __fmul_rn(__fmul_rn(row[i], inverse), global<const float>(reinterpret_cast<uint64_t>(weights))[i]);
  __syncwarp();
}

__device__ __forceinline__ void rotate(float* row, const float* cosines, const float* sines, const Arguments& arguments, int lane) {
  for (int pair = lane; pair < arguments.pairs; pair += kWarp) {
    const int first = arguments.is_in_pairs ? 2 * pair : pair, second = arguments.is_in_pairs ? 2 * pair + 1 : arguments.pairs + pair;
    const float a = row[first], b = row[second], cosine = cosines[pair], sine = sines[pair];
    row[first] = __fadd_rn(__fmul_rn(a, cosine), -__fmul_rn(b, sine));
    row[second] = __fadd_rn(__fmul_rn(b, cosine), __fmul_rn(a, sine));
  }
  __syncwarp();
}

/// Groups of a row, eight lanes each.
template <int kFormat>
__device__ __forceinline__ void store_groups(const float* row, uint64_t to, int d, int lane) {
  constexpr int kBytes = group_bytes_of(kFormat), kGroupLanes = kGroup / 4;
  for (int from = 0; from < d; from += 4 * kWarp) {
    const int at = from + lane * 4, lane_of_group = lane % kGroupLanes;
    Four four = {};
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (at < d)
        four.x[i] = row[at + i];
    GroupScale scale;
    uint32_t packed;
    if constexpr (kFormat == kQ8) {
      packed = quantise_q8(four, scale);
    } else {
      packed = quantise_q4(four, lane_of_group, scale);
      packed |= __shfl_xor_sync(kAllLanes, packed, kGroupLanes / 2) << 4;
    }
    if (at >= d)
      continue;
    AUXCORE_GLOBAL uint16_t* const group = global<uint16_t>(to + uint64_t(at / kGroup * kBytes));
    if (lane_of_group == 0)
      group[0] = uint16_t(scale.stored);
    if (kFormat == kQ8 || lane_of_group < kGroupLanes / 2) {
      group[1 + 2 * lane_of_group] = uint16_t(packed);
      group[2 + 2 * lane_of_group] = uint16_t(packed >> 16);
    }
  }
}

__device__ __forceinline__ void store_row(const float* row, const Plane& plane, uint64_t to, float scale, int d, int lane) {
  if (plane.format == kQ8)
    return store_groups<kQ8>(row, to, d, lane);
  if (plane.format == kQ4)
    return store_groups<kQ4>(row, to, d, lane);
  for (int i = lane; i < d; i += kWarp)
    if (plane.format == kF32)
      global<float>(to)[i] = row[i];
    else if (plane.format == kE4M3)
      global<unsigned char>(to)[i] = static_cast<unsigned char>(to_e4m3(row[i], scale));
    else
      global<uint16_t>(to)[i] = uint16_t(plane.format == kF16 ? to_f16(row[i]) : to_bf16(row[i]));
}

/// Where a token's row goes; 0 where the cache has no place for it.
__device__ __forceinline__ uint64_t place_of(
    const Arguments& arguments, const Plane& plane, int32_t token, int32_t sequence, int32_t head) {
  if (unsigned(sequence) >= unsigned(arguments.cache.batch))
    return 0;
  const HeadTable table(arguments.cache, sequence, head);
  const int32_t slot = arguments.slots[arguments.slots_are_of_heads ? int64_t{token} * arguments.cache.kv_heads + head : token];
  if (unsigned(slot) >= unsigned(table.capacity))
    return 0;
  int32_t within_it;
  const int32_t outer = table.outer_of(arguments.cache, plane, slot, within_it);
  return outer < 0 ? 0 : table.row(plane, outer, within_it);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_kv_append(Arguments arguments) {
  AUXCORE_SHARED(float, cosines, kMostPairs);
  AUXCORE_SHARED(float, sines, kMostPairs);
  AUXCORE_SHARED(float, rows, kWarps * kMostHeadDim);
  AUXCORE_SHARED(double, sums, kWarps * kWarp);
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp, d = arguments.cache.head_dim;
  const int32_t queries = arguments.query.heads, stored = arguments.cache.kv_heads, heads = queries + 2 * stored;
  const int32_t blocks = (heads + kWarps - 1) / kWarps;  // of a token
  const int32_t token = int32_t(blockIdx.x / unsigned(blocks)), head = int32_t(blockIdx.x % unsigned(blocks)) * kWarps + warp;
  static_assert(kThreads >= kMostPairs);
  const int own_pair = int(threadIdx.x);
  double frequency = 0;
#pragma unroll
  for (int pair = 0; pair < kMostPairs; ++pair)  // a parameter that is indexed by a variable would be copied to the stack first
    if (own_pair == pair)
      frequency = arguments.frequencies[pair];
  if (own_pair < arguments.pairs) {
    double sine, cosine;
    sine_cosine(__dmul_rn(double(arguments.positions[token]), frequency), sine, cosine);
    cosines[own_pair] = float(cosine);
    sines[own_pair] = float(sine);
  }
  __syncthreads();
  if (head >= heads)
    return;
  const bool is_query = head < queries, is_key = !is_query && head < queries + stored;
  Rows source = arguments.values;  // a copy: parameters that are chosen by address would have to be in memory
  if (is_query)
    source = arguments.query;
  else if (is_key)
    source = arguments.keys;
  const int32_t own = is_query ? head : is_key ? head - queries : head - queries - stored;
  const int size = arguments.type == kFloat32 ? 4 : 2;
  const uint64_t from = source.first + uint64_t(token * source.step + int64_t{own} * d * size);
  float* const row = rows + warp * kMostHeadDim;
  for (int i = lane; i < d; i += kWarp)
    row[i] = load_element(from, arguments.type, i);
  __syncwarp();
  if (source.norm != nullptr)
    normalise(row, sums + warp * kWarp, source.norm, d, arguments.norm_epsilon, lane);
  if (is_query || is_key)
    rotate(row, cosines, sines, arguments, lane);
  if (is_query) {
    AUXCORE_GLOBAL float* const to =
        global<float>(arguments.rotated_query + uint64_t(token * arguments.rotated_step + int64_t{own} * d * 4));
    for (int i = lane; i < d; i += kWarp)
      to[i] = row[i];
    return;
  }
  const int32_t each = arguments.sequences == nullptr ? arguments.tokens / arguments.cache.batch : 1;
  const int32_t sequence = arguments.sequences == nullptr ? token / each : arguments.sequences[token];
  Plane plane = arguments.cache.values;
  if (is_key)
    plane = arguments.cache.keys;
  const uint64_t to = place_of(arguments, plane, token, sequence, own);
  if (to != 0)
    store_row(row, plane, to, scale_of_head(plane, own), d, lane);
}
AUXCORE_KERNEL(auxcore_kv_append)

}  // namespace auxcore::kv_append
