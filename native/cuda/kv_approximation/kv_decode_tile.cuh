// What a warp of KvDecodeAttention does with a tile of positions: scores, weights, sums of values.
#pragma once

#include "kv_decode_attention.cuh"
#include "kv_rows.cuh"

// Compiled into their callers on the device. In the simulator that would be dozens of times, and take sanitizers minutes.
#if defined(AUXCORE_SIMULATOR)
#  define AUXCORE_KV_INLINE inline __attribute__((noinline))
#else
#  define AUXCORE_KV_INLINE __forceinline__
#endif

namespace auxcore::kv_decode_attention {

using namespace kv;

__device__ __forceinline__ float minus_infinity() { return as_float(0xff800000u); }

/// A lane's place in a warp that reads rows.
struct Place {
  int lane;
  int r;          ///< which eight elements of a row
  int row;        ///< which of the rows that the warp reads at once
  int lanes;      ///< that share a row
  bool has_part;  ///< whether a row has elements for this lane

  __device__ __forceinline__ explicit Place(const Arguments& arguments)
      : lane(int(threadIdx.x) % kWarp),
        r(lane & (arguments.lanes - 1)),
        row(lane / arguments.lanes),
        lanes(arguments.lanes),
        has_part(r * kVector < arguments.cache.head_dim) {}

  __device__ __forceinline__ int rows_at_once() const { return kWarp / lanes; }
};

/// A lane keeps half of kCount numbers, plus what the lane whose number differs by `with` has of them, and gives that lane the other half.
template <int kCount, int kHeads>
__device__ __forceinline__ void halve(float (&partial)[kHeads], int r, int with) {
  const bool is_upper = (r & with) != 0;
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    const float sent = is_upper ? partial[i] : partial[i + kCount / 2];
    partial[i] = (is_upper ? partial[i + kCount / 2] : partial[i]) + __shfl_xor_sync(kAllLanes, sent, with);
  }
}

/// Adds each of kHeads numbers up over the lanes that share a row: lane r gets the sum of head r / (lanes / kHeads), by half of the
/// shuffles that all sums in all lanes would take, or less.
template <int kHeads>
__device__ __forceinline__ float sum_of_row(float (&partial)[kHeads], int r, int lanes) {
  int with = lanes / 2;
  if constexpr (kHeads >= 8) {
    halve<8>(partial, r, with);
    with /= 2;
  }
  if constexpr (kHeads >= 4) {
    halve<4>(partial, r, with);
    with /= 2;
  }
  if constexpr (kHeads >= 2) {
    halve<2>(partial, r, with);
    with /= 2;
  }
  for (; with > 0; with /= 2)
    partial[0] += __shfl_xor_sync(kAllLanes, partial[0], with);
  return partial[0];
}

/// scores[position, head] of a tile.
template <int kHeads, int kFormat>
__device__ AUXCORE_KV_INLINE void score(
    const unsigned char* keys, int at, int row_bytes, int count, Place place, const float (&query)[kHeads][kVector], float* scores) {
  constexpr int kAtOnce = 2;  // so that loads and shuffles of one row hide those of the other
  const int lanes_per_head = place.lanes / kHeads;
  for (int from = place.row; from - place.row < count; from += kAtOnce * place.rows_at_once()) {
    float partial[kAtOnce][kHeads] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int position = from + i * place.rows_at_once();
      if (!place.has_part || position >= count)
        continue;
      float x[kVector];
      const float scale = load_row<kFormat>(keys, at + position * row_bytes, place.r, x);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
#pragma unroll
        for (int e = 0; e < kVector; ++e)
          partial[i][h] = fmaf(query[h][e], x[e], partial[i][h]);
        if constexpr (kIsScaled<kFormat>)
          partial[i][h] *= scale;
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int position = from + i * place.rows_at_once();
      const float sum = sum_of_row<kHeads>(partial[i], place.r, place.lanes);
      if (position < count && place.r % lanes_per_head == 0)
        scores[position * kHeads + place.r / lanes_per_head] = sum;
    }
  }
}

template <int kHeads>
__device__ __forceinline__ void load_weights(const float* from, float (&weight)[kHeads]) {
  if constexpr (kHeads >= 4) {
#pragma unroll
    for (int h = 0; h < kHeads; h += 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + h);
      weight[h] = four.x, weight[h + 1] = four.y, weight[h + 2] = four.z, weight[h + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int h = 0; h < kHeads; ++h)
      weight[h] = from[h];
  }
}

/// scores[position, head] of a tile of a block of KIVI's keys, in device memory. 32 positions of one channel are a group, so scores are
/// sums of groups that the queries weigh. A lane has four positions, and some lanes a channel.
template <int kHeads>
__device__ AUXCORE_KV_INLINE void score_block(
    uint64_t block, int begin, int count, int d, const float* queries, float* scores, int lane) {
  const int lanes = count >= 4 ? count / 4 : 1;  // of a channel
  const int first = (begin & ~3) + lane % lanes * 4;
  constexpr int kAtOnce = 4;  // channels of a lane whose loads are on their way together
  const int step = kWarp / lanes;
  float partial[4][kHeads] = {};
  for (int from = lane / lanes; from < d; from += kAtOnce * step) {
    uint32_t scales[kAtOnce], words[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (from + k * step < d) {
        const AUXCORE_GLOBAL uint32_t* const group = global<const uint32_t>(block + uint64_t((from + k * step) * kKiviBytes));
        scales[k] = group[0];
        words[k] = group[1 + first % 16 / 4];
      }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (from + k * step >= d)
        continue;
      const uint32_t halves = kivi_halves(words[k], first);
      const float s = widen(float16{uint16_t(scales[k])}), m = widen(float16{uint16_t(scales[k] >> 16)});
      float query[kHeads];
      load_weights<kHeads>(queries + (from + k * step) * kHeads, query);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float x = fmaf(of_kivi(halves, i), s, m);
#pragma unroll
        for (int h = 0; h < kHeads; ++h)
          partial[i][h] = fmaf(query[h], x, partial[i][h]);
      }
    }
  }
  for (int with = lanes; with < kWarp; with *= 2)
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int h = 0; h < kHeads; ++h)
        partial[i][h] += __shfl_xor_sync(kAllLanes, partial[i][h], with);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int position = first + i - begin;
    if (lane < lanes && position >= 0 && position < count)
#pragma unroll
      for (int h = 0; h < kHeads; ++h)
        scores[position * kHeads + h] = partial[i][h];
  }
}

/// sums[head] += weight · value over the positions of a tile that are the lane's.
template <int kHeads, int kFormat>
__device__ AUXCORE_KV_INLINE void mix(
    const unsigned char* values, int at, int row_bytes, int count, Place place, const float* weights, float (&sums)[kHeads][kVector]) {
  if (!place.has_part)
    return;
  for (int position = place.row; position < count; position += place.rows_at_once()) {
    float x[kVector];
    const float scale = load_row<kFormat>(values, at + position * row_bytes, place.r, x);
    float weight[kHeads];
    load_weights<kHeads>(weights + position * kHeads, weight);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if constexpr (kIsScaled<kFormat>)
        weight[h] *= scale;
#pragma unroll
      for (int e = 0; e < kVector; ++e)
        sums[h][e] = fmaf(weight[h], x[e], sums[h][e]);
    }
  }
}

/// The maximum of a head's scores so far, and the sum of its weights: of head lane % kHeads, the sum only of what the lane has seen.
struct Running {
  float maximum = minus_infinity();
  float sum = 0;
};

/// Scores of a tile become weights. What was summed before shrinks where a maximum has grown.
/// Scores that are kept for sums of positions go to `kept`, whose heads are `pitch` apart.
template <int kHeads>
__device__ __forceinline__ void weigh(float* scores, int count, int lane, Running& running, float (&sums)[kHeads][kVector], int heads,
    AUXCORE_GLOBAL float* kept, int32_t pitch) {
  constexpr int kAtOnce = kWarp / kHeads;  // positions
  float own[kHeads];
  float greatest = running.maximum;
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    own[i] = i * kAtOnce + lane / kHeads < count ? scores[i * kWarp + lane] : minus_infinity();
    greatest = fmaxf(greatest, own[i]);
  }
#pragma unroll
  for (int with = kHeads; with < kWarp; with *= 2)
    greatest = fmaxf(greatest, __shfl_xor_sync(kAllLanes, greatest, with));
  if (kept != nullptr && lane % kHeads < heads) {
#pragma unroll
    for (int i = 0; i < kHeads; ++i)
      if (i * kAtOnce + lane / kHeads < count)
        kept[int64_t{lane % kHeads} * pitch + i * kAtOnce + lane / kHeads] = own[i];
  }
  const float shift = greatest == minus_infinity() ? 0.0f : greatest;
  const float shrink = exp2_approximate(running.maximum - shift);
  running.maximum = greatest;
  running.sum *= shrink;
#pragma unroll
  for (int i = 0; i < kHeads; ++i)
    if (i * kAtOnce + lane / kHeads < count) {
      const float weight = exp2_approximate(own[i] - shift);
      scores[i * kWarp + lane] = weight;
      running.sum += weight;
    }
  if (__ballot_sync(kAllLanes, shrink != 1.0f) == 0)  // maxima settle soon
    return;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const float factor = __shfl_sync(kAllLanes, shrink, h);
#pragma unroll
    for (int e = 0; e < kVector; ++e)
      sums[h][e] *= factor;
  }
}

}  // namespace auxcore::kv_decode_attention
