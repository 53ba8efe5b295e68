// GradientNorm on CUDA: the sum of squares of many gradients, in double and in the order that src/Kernels/AdamW/GradientNorm.cs documents,
// so that it has the bits of the CPU's.
//
// A warp adds up a chunk: lane i has the elements i, i + 32, … A square of a float32 is exact in double, so it does not matter whether the
// compiler fuses it with the addition.
#include "../device/device.cuh"
#include "adamw_update.cuh"

namespace auxcore::adamw {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ uint64_t bits_of(double value) {
  uint64_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

__device__ __forceinline__ bool is_finite(double value) { return (bits_of(value) >> 52 & 0x7ffu) != 0x7ffu; }
__device__ __forceinline__ bool is_finite(float value) { return (as_bits(value) >> 23 & 0xffu) != 0xffu; }

__device__ __forceinline__ double shuffle_down(double value, unsigned by) {
  const uint64_t bits = bits_of(value);
  const uint64_t low = __shfl_down_sync(kAllLanes, unsigned(bits), by), high = __shfl_down_sync(kAllLanes, unsigned(bits >> 32), by);
  const uint64_t both = high << 32 | low;
  double other;
  __builtin_memcpy(&other, &both, sizeof other);
  return other;
}

__device__ __forceinline__ float wide_from(const AUXCORE_GLOBAL float* from) { return *from; }
template <class Narrow>
__device__ __forceinline__ float wide_from(const AUXCORE_GLOBAL Narrow* from) {
  return widen(Narrow{from->bits});
}

struct Sum {
  double squares;
  uint32_t non_finite;
};

template <class T>
__device__ __forceinline__ Sum sum_of(const Chunk& chunk, uint32_t lane) {
  constexpr uint32_t kTogether = 8;  // loads under way before the first is needed
  const AUXCORE_GLOBAL T* gradient = global<const T>(chunk.gradient);
  double sum = 0;
  for (uint32_t from = lane; from < chunk.count; from += kTogether * kWarp) {
    float elements[kTogether];
#pragma unroll
    for (uint32_t i = 0; i < kTogether; ++i)
      elements[i] = from + i * kWarp < chunk.count ? wide_from(gradient + from + i * kWarp) : 0.0f;  // adding 0 changes no sum of squares
#pragma unroll
    for (uint32_t i = 0; i < kTogether; ++i)
      sum = __dadd_rn(sum, __dmul_rn(elements[i], elements[i]));
  }
  if (is_finite(sum))
    return {sum, 0};
  uint32_t non_finite = 0;
  for (uint32_t at = lane; at < chunk.count; at += kWarp)
    non_finite += is_finite(wide_from(gradient + at)) ? 0 : 1;
  return {sum, non_finite};
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_adamw_norm_chunks(
    const Chunk* __restrict__ chunks, double* sums, uint32_t* counts, uint32_t chunk_count) {
  const uint32_t warp = blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (warp >= chunk_count)
    return;
  const Chunk chunk = chunks[warp];
  Sum sum = chunk.gradient_type == kFloat32 ? sum_of<float>(chunk, lane)
      : chunk.gradient_type == kFloat16     ? sum_of<float16>(chunk, lane)
                                            : sum_of<bfloat16>(chunk, lane);
  for (unsigned half = kWarp / 2; half > 0; half /= 2) {
    sum.squares = __dadd_rn(sum.squares, shuffle_down(sum.squares, half));
    sum.non_finite += __shfl_down_sync(kAllLanes, sum.non_finite, half);
  }
  if (lane == 0) {
    sums[warp] = sum.squares;
    counts[warp] = sum.non_finite;
  }
}
AUXCORE_KERNEL(auxcore_adamw_norm_chunks)

/// One block. What a clipped update is to do is decided here, so that nobody waits for the host.
extern "C" __global__ void __launch_bounds__(kFinalSums) auxcore_adamw_norm_fold(
    const double* __restrict__ sums, const uint32_t* __restrict__ counts, Norm* norm, uint32_t chunk_count, double scale, double greatest,
    int32_t skip) {
  AUXCORE_SHARED(double, squares, kFinalSums);
  AUXCORE_SHARED(uint64_t, non_finite, kFinalSums);
  double sum = 0;
  uint64_t found = 0;
  for (uint32_t at = threadIdx.x; at < chunk_count; at += kFinalSums) {
    sum = __dadd_rn(sum, sums[at]);
    found += counts[at];
  }
  squares[threadIdx.x] = sum;
  non_finite[threadIdx.x] = found;
  __syncthreads();
  for (unsigned half = kFinalSums / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      squares[threadIdx.x] = __dadd_rn(squares[threadIdx.x], squares[threadIdx.x + half]);
      non_finite[threadIdx.x] += non_finite[threadIdx.x + half];
    }
    __syncthreads();
  }
  if (threadIdx.x != 0)
    return;
  const bool finite = non_finite[0] == 0;
  double factor = 1;
  if (finite && greatest > 0) {
    const double allowed = greatest / __dadd_rn(__dmul_rn(__dsqrt_rn(squares[0]), scale), kClipEpsilon);
    factor = allowed < 1 ? allowed : 1;
  }
  *norm = {squares[0], non_finite[0], factor, !finite && skip != 0 ? 1u : 0u};
}
AUXCORE_KERNEL(auxcore_adamw_norm_fold)

}  // namespace auxcore::adamw
