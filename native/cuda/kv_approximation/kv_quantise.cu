// KvQuantise on CUDA. The formulas are in src/Kernels/KvApproximation/KvQuantise.cs; kv_codec.cuh has them for four elements at a time.
//
// Elements are read and written 16 bytes a lane. Groups of 34, 18 and 20 bytes lie across all boundaries, so a block forms those of 4096
// elements, whose bytes are a multiple of 16, in shared memory, and moves them from there or to there in wide accesses too.
#include "kv_quantise.cuh"

#include "kv_codec.cuh"

namespace auxcore::kv_quantise {
namespace {

using namespace kv;

constexpr int kRounds = kTile / (4 * kThreads);

using Elements = AUXCORE_GLOBAL float;
using Bytes = AUXCORE_GLOBAL unsigned char;

__device__ __forceinline__ Four load_four(const Elements* from, int64_t at, int count, bool is_aligned) {
  if (is_aligned && count == 4) {
    const float4 all = load4(from + at);
    return {{all.x, all.y, all.z, all.w}};
  }
  Four four = {};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count)
      four.x[i] = from[at + i];
  return four;
}

__device__ __forceinline__ void store_four(Elements* to, int64_t at, int count, bool is_aligned, const Four& four) {
  if (is_aligned && count == 4) {
    store4(to + at, {four.x[0], four.x[1], four.x[2], four.x[3]});
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count)
      to[at + i] = four.x[i];
}

/// How many of the four elements from `at` on there are.
__device__ __forceinline__ int four_at(const Arguments& arguments, int64_t at) {
  return arguments.count - at >= 4 ? 4 : arguments.count > at ? int(arguments.count - at) : 0;
}

template <int kFormat>
__device__ __forceinline__ uint32_t narrowed(float x, float scale) {
  return kFormat == kF16 ? to_f16(x) : kFormat == kBF16 ? to_bf16(x) : to_e4m3(x, scale);
}

template <int kFormat>
__device__ __forceinline__ float widened(uint32_t bits, float scale) {
  return kFormat == kF16 ? widen(float16{uint16_t(bits)})
         : kFormat == kBF16 ? widen(bfloat16{uint16_t(bits)}) : __fmul_rn(of_e4m3(bits), scale);
}

template <int kFormat>
__device__ __forceinline__ void quantise_elements(const Arguments& arguments) {
  const Elements* const elements = global<float>(arguments.elements);
  const int64_t first = int64_t{blockIdx.x} * kTile + int64_t{threadIdx.x} * 4;
  Four four[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round)
    four[round] = load_four(elements, first + round * kThreads * 4, four_at(arguments, first + round * kThreads * 4), arguments.is_aligned);
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int64_t at = first + round * kThreads * 4;
    const int count = four_at(arguments, at);
    uint32_t bits[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      bits[i] = narrowed<kFormat>(four[round].x[i], arguments.scale);
    if constexpr (kFormat == kE4M3) {
      if (arguments.is_aligned && count == 4)
        *global<uint32_t>(arguments.stored + uint64_t(at)) = bits[0] | bits[1] << 8 | bits[2] << 16 | bits[3] << 24;
      else
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (i < count)
            global<unsigned char>(arguments.stored)[at + i] = static_cast<unsigned char>(bits[i]);
    } else {
      if (arguments.is_aligned && count == 4)
        store4(global<uint16_t>(arguments.stored) + at, uint2{bits[0] | bits[1] << 16, bits[2] | bits[3] << 16});
      else
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (i < count)
            global<uint16_t>(arguments.stored)[at + i] = uint16_t(bits[i]);
    }
  }
}

template <int kFormat>
__device__ __forceinline__ void restore_elements(const Arguments& arguments) {
  Elements* const elements = global<float>(arguments.elements);
  const int64_t first = int64_t{blockIdx.x} * kTile + int64_t{threadIdx.x} * 4;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int64_t at = first + round * kThreads * 4;
    const int count = four_at(arguments, at);
    uint32_t bits[4] = {};
    if constexpr (kFormat == kE4M3) {
      if (arguments.is_aligned && count == 4) {
        const uint32_t all = *global<const uint32_t>(arguments.stored + uint64_t(at));
#pragma unroll
        for (int i = 0; i < 4; ++i)
          bits[i] = all >> (8 * i) & 0xffu;
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (i < count)
            bits[i] = global<const unsigned char>(arguments.stored)[at + i];
      }
    } else {
      if (arguments.is_aligned && count == 4) {
        const uint2 all = load4(global<const uint16_t>(arguments.stored) + at);
        bits[0] = all.x & 0xffffu;
        bits[1] = all.x >> 16;
        bits[2] = all.y & 0xffffu;
        bits[3] = all.y >> 16;
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (i < count)
            bits[i] = global<const uint16_t>(arguments.stored)[at + i];
      }
    }
    Four four;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      four.x[i] = widened<kFormat>(bits[i], arguments.scale);
    store_four(elements, at, count, arguments.is_aligned, four);
  }
}

/// The bytes of a block's groups, between shared memory and where they are stored.
template <bool kToStored>
__device__ __forceinline__ void move_groups(const Arguments& arguments, unsigned char* tile, int64_t offset, int bytes) {
  Bytes* const stored = global<unsigned char>(arguments.stored) + offset;
  const int wide = arguments.is_aligned ? bytes / 16 : 0;
  for (int i = int(threadIdx.x); i < wide; i += kThreads) {
    uint4* const here = reinterpret_cast<uint4*>(tile) + i;
    if constexpr (kToStored)
      store16(stored + 16 * i, *here);
    else
      *here = load16(stored + 16 * i);
  }
  for (int i = wide * 16 + int(threadIdx.x); i < bytes; i += kThreads) {
    if constexpr (kToStored)
      stored[i] = tile[i];
    else
      tile[i] = stored[i];
  }
}

template <int kFormat>
__device__ __forceinline__ void quantise_groups(const Arguments& arguments) {
  constexpr int kBytes = group_bytes_of(kFormat);
  AUXCORE_SHARED(uint4, tile, kTile / kGroup * kBytes / 16);
  unsigned char* const bytes = reinterpret_cast<unsigned char*>(tile);
  const int64_t first = int64_t{blockIdx.x} * kTile;
  const int64_t left = arguments.count - first;
  const int groups = int((left < kTile ? left : kTile) / kGroup);
  const int own = int(threadIdx.x) / kGroupLanes, lane = int(threadIdx.x) % kGroupLanes;
  const Elements* const elements = global<float>(arguments.elements) + first;

  Four four[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int group = round * (kThreads / kGroupLanes) + own;
    four[round] = load_four(elements, group * kGroup + lane * 4, group < groups ? 4 : 0, arguments.is_aligned);
  }
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int group = round * (kThreads / kGroupLanes) + own;
    uint32_t scales;
    const uint32_t packed = quantise_group<kFormat>(four[round], lane, scales);
    if (group < groups)
      store_group<kFormat>(reinterpret_cast<uint16_t*>(bytes + group * kBytes), lane, scales, packed);
  }
  __syncthreads();
  move_groups<true>(arguments, bytes, first / kGroup * kBytes, groups * kBytes);
}

template <int kFormat>
__device__ __forceinline__ void restore_groups(const Arguments& arguments) {
  constexpr int kBytes = group_bytes_of(kFormat);
  AUXCORE_SHARED(uint4, tile, kTile / kGroup * kBytes / 16);
  unsigned char* const bytes = reinterpret_cast<unsigned char*>(tile);
  const int64_t first = int64_t{blockIdx.x} * kTile;
  const int64_t left = arguments.count - first;
  const int groups = int((left < kTile ? left : kTile) / kGroup);
  const int own = int(threadIdx.x) / kGroupLanes, lane = int(threadIdx.x) % kGroupLanes;
  Elements* const elements = global<float>(arguments.elements) + first;

  move_groups<false>(arguments, bytes, first / kGroup * kBytes, groups * kBytes);
  __syncthreads();
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int group = round * (kThreads / kGroupLanes) + own;
    if (group >= groups)
      continue;
    const int place = kFormat == kQ8 ? lane : lane % (kGroupLanes / 2);
    if constexpr (kFormat == kKivi) {
      const uint32_t* const from = reinterpret_cast<const uint32_t*>(bytes + group * kBytes);
      const float s = widen(float16{uint16_t(from[0])}), m = widen(float16{uint16_t(from[0] >> 16)});
      const uint32_t halves = from[1 + place] >> (lane / (kGroupLanes / 2) * 4) & 0x0f0f0f0fu;
      Four four;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        four.x[i] = fmaf(of_kivi(halves, i), s, m);
      store_four(elements, group * kGroup + lane * 4, 4, arguments.is_aligned, four);
      continue;
    }
    const uint16_t* const from = reinterpret_cast<const uint16_t*>(bytes + group * kBytes);
    const float scale = widen(float16{from[0]});
    uint32_t packed = uint32_t(from[1 + 2 * place]) | uint32_t(from[2 + 2 * place]) << 16;
    packed = kFormat == kQ8 ? packed ^ 0x80808080u : packed >> (lane / (kGroupLanes / 2) * 4) & 0x0f0f0f0fu;
    Four four;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      four.x[i] = __fmul_rn(kFormat == kQ8 ? of_q8(packed, i) : of_q4(packed, i), scale);
    store_four(elements, group * kGroup + lane * 4, 4, arguments.is_aligned, four);
  }
}

}  // namespace

#define AUXCORE_KV_KERNEL(name, body)                                                            \
  extern "C" __global__ void __launch_bounds__(kThreads) name(Arguments arguments) { body(arguments); } \
  AUXCORE_KERNEL(name)

AUXCORE_KV_KERNEL(auxcore_kv_quantise_f16, quantise_elements<kF16>)
AUXCORE_KV_KERNEL(auxcore_kv_quantise_bf16, quantise_elements<kBF16>)
AUXCORE_KV_KERNEL(auxcore_kv_quantise_e4m3, quantise_elements<kE4M3>)
AUXCORE_KV_KERNEL(auxcore_kv_quantise_q8, quantise_groups<kQ8>)
AUXCORE_KV_KERNEL(auxcore_kv_quantise_q4, quantise_groups<kQ4>)
AUXCORE_KV_KERNEL(auxcore_kv_quantise_kivi, quantise_groups<kKivi>)
AUXCORE_KV_KERNEL(auxcore_kv_dequantise_f16, restore_elements<kF16>)
AUXCORE_KV_KERNEL(auxcore_kv_dequantise_bf16, restore_elements<kBF16>)
AUXCORE_KV_KERNEL(auxcore_kv_dequantise_e4m3, restore_elements<kE4M3>)
AUXCORE_KV_KERNEL(auxcore_kv_dequantise_q8, restore_groups<kQ8>)
AUXCORE_KV_KERNEL(auxcore_kv_dequantise_q4, restore_groups<kQ4>)
AUXCORE_KV_KERNEL(auxcore_kv_dequantise_kivi, restore_groups<kKivi>)
#undef AUXCORE_KV_KERNEL

}  // namespace auxcore::kv_quantise
