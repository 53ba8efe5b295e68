// What the device code of the token-pruning ops shares: elements of any type, segments, and integers summed over a block.
#pragma once

#include "../device/math.cuh"
#include "token_types.cuh"

// Compiled into their callers on the device. In the simulator that would be dozens of times, and take sanitizers minutes.
#if defined(AUXCORE_SIMULATOR)
#  define AUXCORE_TOKEN_INLINE inline __attribute__((noinline))
#else
#  define AUXCORE_TOKEN_INLINE __forceinline__
#endif

namespace auxcore::tokens {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float load(const float* from) { return *from; }
__device__ __forceinline__ float load(const bfloat16* from) { return widen(bfloat16{from->bits}); }
__device__ __forceinline__ float load(const float16* from) { return widen(float16{from->bits}); }

/// Element `at` of an array whose type every thread of the block has the same.
__device__ __forceinline__ float load(const void* from, int32_t type, int64_t at) {
  switch (type) {
    case kFloat32:
      return load(static_cast<const float*>(from) + at);
    case kBFloat16:
      return load(static_cast<const bfloat16*>(from) + at);
    default:
      return load(static_cast<const float16*>(from) + at);
  }
}

__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(bfloat16* to, float value) { to->bits = narrow_to(bfloat16{}, value).bits; }
__device__ __forceinline__ void store(float16* to, float value) { to->bits = narrow_to(float16{}, value).bits; }

template <class T>
__device__ __forceinline__ T least(T a, T b) {
  return b < a ? b : a;
}

template <class T>
__device__ __forceinline__ T most(T a, T b) {
  return a < b ? b : a;
}

/// The tokens of a segment, held within those that there are: what bounds in device memory say is checked nowhere else.
struct Segment {
  int32_t first, length;

  __device__ __forceinline__ Segment(const int32_t* bounds, int32_t segment, int32_t tokens) {
    first = most(0, least(bounds[segment], tokens));
    length = most(0, least(bounds[segment + 1], tokens) - first);
  }
};

__device__ __forceinline__ int own_lane() { return int(threadIdx.x) % kWarp; }
__device__ __forceinline__ int own_warp() { return int(threadIdx.x) / kWarp; }

__device__ __forceinline__ unsigned shuffled_xor(unsigned value, int with) { return __shfl_xor_sync(kAllLanes, value, with); }
__device__ __forceinline__ uint64_t shuffled_xor(uint64_t value, int with) {
  const unsigned low = shuffled_xor(unsigned(value), with), high = shuffled_xor(unsigned(value >> 32), with);
  return uint64_t(high) << 32 | low;
}

__device__ __forceinline__ unsigned shuffled_up(unsigned value, unsigned by) { return __shfl_up_sync(kAllLanes, value, by); }
__device__ __forceinline__ uint64_t shuffled_up(uint64_t value, unsigned by) {
  const unsigned low = shuffled_up(unsigned(value), by), high = shuffled_up(unsigned(value >> 32), by);
  return uint64_t(high) << 32 | low;
}

/// The sum, or the largest, of what the lanes of a warp bring; for all of them.
template <class Integer>
__device__ __forceinline__ Integer warp_sum(Integer value) {
#pragma unroll
  for (int with = kWarp / 2; with > 0; with /= 2)
    value += shuffled_xor(value, with);
  return value;
}

__device__ __forceinline__ unsigned warp_most(unsigned value) {
#pragma unroll
  for (int with = kWarp / 2; with > 0; with /= 2)
    value = most(value, shuffled_xor(value, with));
  return value;
}

/// The sum over a block of kThreads threads, for all of them. scratch: a place a warp. Every thread calls it.
template <int kThreads, class Integer>
__device__ AUXCORE_TOKEN_INLINE Integer block_sum(Integer value, Integer* scratch) {
  value = warp_sum(value);
  if (own_lane() == 0)
    scratch[own_warp()] = value;
  __syncthreads();
  Integer sum = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / kWarp; ++warp)
    sum += scratch[warp];
  __syncthreads();
  return sum;
}

/// The largest over a block, for all of its threads.
template <int kThreads>
__device__ AUXCORE_TOKEN_INLINE unsigned block_most(unsigned value, unsigned* scratch) {
  value = warp_most(value);
  if (own_lane() == 0)
    scratch[own_warp()] = value;
  __syncthreads();
  unsigned largest = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / kWarp; ++warp)
    largest = most(largest, scratch[warp]);
  __syncthreads();
  return largest;
}

/// The sum of what the threads before bring.
template <int kThreads, class Integer>
__device__ AUXCORE_TOKEN_INLINE Integer block_sum_before(Integer value, Integer* scratch) {
  Integer sum = value;
#pragma unroll
  for (unsigned by = 1; by < kWarp; by *= 2) {
    const Integer before = shuffled_up(sum, by);
    if (unsigned(own_lane()) >= by)
      sum += before;
  }
  if (own_lane() == kWarp - 1)
    scratch[own_warp()] = sum;
  __syncthreads();
  Integer warps = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / kWarp; ++warp)
    warps += warp < own_warp() ? scratch[warp] : 0;
  __syncthreads();
  return warps + sum - value;
}

}  // namespace auxcore::tokens
