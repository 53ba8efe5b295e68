// What becomes of one head of one token on its way into a KV cache, for a warp that has its row in shared memory: norm, rotation and
// storing each want another lane to have an element. Roundings are those of src/Kernels/KvApproximation/KvHeadLoops.cs, so bytes are equal.
#pragma once

#include "../device/math.cuh"
#include "kv_cache.cuh"
#include "kv_codec.cuh"
#include "kv_head_types.cuh"

namespace auxcore::kv {

/// The frequency of a pair; 0 where there is no such pair.
__device__ __forceinline__ double frequency_of(const Tokens& tokens, int own_pair) {
  double frequency = 0;
#pragma unroll
  for (int pair = 0; pair < kMostPairs; ++pair)  // a parameter that is indexed by a variable would be copied to the stack first
    if (own_pair == pair)
      frequency = tokens.frequencies[pair];
  return frequency;
}

/// The cosine and sine that a pair turns by; every thread of a block calls it for a pair of its own.
__device__ __forceinline__ void turn(const Tokens& tokens, int32_t token, int own_pair, float* cosines, float* sines) {
  const double frequency = frequency_of(tokens, own_pair);
  if (own_pair < tokens.pairs) {
    double sine, cosine;
    sine_cosine(__dmul_rn(double(tokens.positions[token]), frequency), sine, cosine);
    cosines[own_pair] = float(cosine);
    sines[own_pair] = float(sine);
  }
}

__device__ __forceinline__ float load_element(uint64_t row, int32_t type, int i) {
  if (type == kFloat32)
    return global<const float>(row)[i];
  const uint16_t bits = global<const uint16_t>(row)[i];
  return type == kFloat16 ? widen(float16{bits}) : widen(bfloat16{bits});
}

__device__ __forceinline__ double shuffled_xor(double value, int with) {
  uint64_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const unsigned low = __shfl_xor_sync(kAllLanes, unsigned(bits), with), high = __shfl_xor_sync(kAllLanes, unsigned(bits >> 32), with);
  bits = uint64_t{high} << 32 | low;
  __builtin_memcpy(&value, &bits, sizeof bits);
  return value;
}

/// x <- w · x / √(mean(x²) + ε). Squares are summed as on the CPU: lane by lane in double, then lanes i and i + 16, and so on.
__device__ __forceinline__ void normalise(float* row, const float* weights, int d, double epsilon, int lane) {
  double squares = 0;
  for (int i = lane; i < d; i += kWarp)
    squares = __fma_rn(double(row[i]), double(row[i]), squares);  // the product is exact
#pragma unroll
  for (int with = kWarp / 2; with > 0; with /= 2)
    squares = __dadd_rn(squares, shuffled_xor(squares, with));
  const float inverse = float(1.0 / __dsqrt_rn(__dadd_rn(squares / d, epsilon)));
  for (int i = lane; i < d; i += kWarp)
    row[i] = __fmul_rn(__fmul_rn(row[i], inverse), global<const float>(reinterpret_cast<uint64_t>(weights))[i]);
  __syncwarp();
}

__device__ __forceinline__ void rotate_pair(float* row, int pair, int pairs, bool is_in_pairs, float cosine, float sine) {
  const int first = is_in_pairs ? 2 * pair : pair, second = is_in_pairs ? 2 * pair + 1 : pairs + pair;
  const float a = row[first], b = row[second];
  row[first] = __fadd_rn(__fmul_rn(a, cosine), -__fmul_rn(b, sine));
  row[second] = __fadd_rn(__fmul_rn(b, cosine), __fmul_rn(a, sine));
}

__device__ __forceinline__ void rotate(float* row, const float* cosines, const float* sines, int pairs, bool is_in_pairs, int lane) {
  for (int pair = lane; pair < pairs; pair += kWarp)
    rotate_pair(row, pair, pairs, is_in_pairs, cosines[pair], sines[pair]);
  __syncwarp();
}

/// Groups of a row, eight lanes each.
template <int kFormat>
__device__ __forceinline__ void store_groups(const float* row, uint64_t to, int d, int lane) {
  constexpr int kBytes = group_bytes_of(kFormat);
  for (int from = 0; from < d; from += 4 * kWarp) {
    const int at = from + lane * 4, lane_of_group = lane % kGroupLanes;
    Four four = {};
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (at < d)
        four.x[i] = row[at + i];
    uint32_t scales;
    const uint32_t packed = quantise_group<kFormat>(four, lane_of_group, scales);
    if (at < d)
      store_group<kFormat>(global<uint16_t>(to + uint64_t(at / kGroup * kBytes)), lane_of_group, scales, packed);
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

/// Where a row goes; 0 where the cache has no place for it.
__device__ __forceinline__ uint64_t place_of(const Cache& cache, const Plane& plane, int32_t sequence, int32_t head, int32_t slot) {
  if (unsigned(sequence) >= unsigned(cache.batch))
    return 0;
  const HeadTable table(cache, sequence, head);
  if (unsigned(slot) >= unsigned(table.capacity))
    return 0;
  int32_t within_it;
  const int32_t outer = table.outer_of(cache, plane, slot, within_it);
  return outer < 0 ? 0 : table.row(plane, outer, within_it);
}

/// A head's row in float32, with bias and norm.
__device__ __forceinline__ void load_head(
    float* row, const TokenRows& source, const Tokens& tokens, int32_t token, int32_t head, int d, int lane) {
  const int size = tokens.type == kFloat32 ? 4 : 2;
  const uint64_t from = source.first + uint64_t(token * source.step + int64_t{head} * d * size);
  for (int i = lane; i < d; i += kWarp) {
    float x = load_element(from, tokens.type, i);
    if (source.bias != nullptr)
      x = __fadd_rn(x, global<const float>(reinterpret_cast<uint64_t>(source.bias))[int64_t{head} * d + i]);
    row[i] = x;
  }
  __syncwarp();
  if (source.norm != nullptr)
    normalise(row, source.norm, d, tokens.norm_epsilon, lane);
}

__device__ __forceinline__ int32_t sequence_of(const Cache& cache, const Tokens& tokens, int32_t token) {
  return tokens.sequences == nullptr ? token / (tokens.count / cache.batch) : tokens.sequences[token];
}

__device__ __forceinline__ int32_t slot_of(const Cache& cache, const Tokens& tokens, int32_t token, int32_t head) {
  return tokens.slots[tokens.slots_are_of_heads ? int64_t{token} * cache.kv_heads + head : token];
}

/// The token of the same sequence that comes so many after this one or, where `by` is negative, before it; -1 where the call has none. A
/// warp asks together.
__device__ __forceinline__ int32_t token_beside(
    const Cache& cache, const Tokens& tokens, int32_t token, int32_t sequence, int32_t by, int lane) {
  if (tokens.sequences == nullptr) {
    const int32_t each = tokens.count / cache.batch;
    const int64_t other = int64_t{token} + by, first = int64_t{sequence} * each;
    return other >= first && other < first + each ? int32_t(other) : -1;
  }
  if (by == 0)
    return token;
  const int direction = by < 0 ? -1 : 1;
  int32_t left = by < 0 ? -by : by;
  int64_t from = int64_t{token} + direction;
  while (left <= (direction < 0 ? from + 1 : tokens.count - from)) {
    const int64_t other = from + direction * lane;
    const bool is_there = other >= 0 && other < tokens.count;
    unsigned same = __ballot_sync(kAllLanes, is_there && tokens.sequences[is_there ? other : 0] == sequence);
    const int found = __popc(same);
    if (left <= found) {
      for (; left > 1; --left)
        same &= same - 1;
      return int32_t(from + direction * (__ffs(int(same)) - 1));
    }
    left -= found;
    from += direction * kWarp;
  }
  return -1;
}

/// Puts a row of KIVI-4 into the ring, if no later token of the call takes its place there: which of them came last is not known.
__device__ __forceinline__ void store_in_ring(const float* row, const Cache& cache, const Plane& plane, const Tokens& tokens, int32_t token,
    int32_t sequence, int32_t head, int32_t slot, int lane) {
  const HeadTable table(cache, sequence, head);
  if (unsigned(slot) >= unsigned(table.capacity))
    return;
  if (int64_t{slot} + plane.ring_positions < table.capacity &&
      token_beside(cache, tokens, token, sequence, plane.ring_positions, lane) >= 0)
    return;
  AUXCORE_GLOBAL float* const to = global<float>(ring_row(cache, plane, sequence, head, slot));
  for (int i = lane; i < cache.head_dim; i += kWarp)
    to[i] = row[i];
}

/// Stores a row of keys or values where the token's slot says; nowhere, where the cache has no such place.
__device__ __forceinline__ void store_head(
    const float* row, const Cache& cache, const Plane& plane, const Tokens& tokens, int32_t token, int32_t head, int lane) {
  const int32_t sequence = sequence_of(cache, tokens, token), slot = slot_of(cache, tokens, token, head);
  if (plane.format == kKivi) {
    if (unsigned(sequence) < unsigned(cache.batch))
      store_in_ring(row, cache, plane, tokens, token, sequence, head, slot, lane);
    return;
  }
  const uint64_t to = place_of(cache, plane, sequence, head, slot);
  if (to != 0)
    store_row(row, plane, to, scale_of_head(plane, head), cache.head_dim, lane);
}

}  // namespace auxcore::kv
