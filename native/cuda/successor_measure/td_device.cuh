// What the device code of the TD ops shares: indicators, and sums over a block in a fixed order.
#pragma once

#include "../device/math.cuh"
#include "td_types.cuh"

namespace auxcore::td {

__device__ __forceinline__ float load(const float* from) { return *from; }
__device__ __forceinline__ float load(const bfloat16* from) { return widen(bfloat16{from->bits}); }

/// 1[x > 0], NaN where x is.
__device__ __forceinline__ float step(float x) { return x > 0 ? 1.0f : x != x ? x : 0.0f; }

using auxcore::product;

__device__ __forceinline__ float nan() { return as_float(0x7fc00000u); }

/// The indicators of one row.
template <class Feature>
struct Thresholds {
  const Feature* features;
  const float* thresholds;

  __device__ __forceinline__ Thresholds(const Sets& sets, int64_t row, int32_t tasks)
      : features(static_cast<const Feature*>(sets.features) + row * tasks), thresholds(sets.thresholds) {}

  __device__ __forceinline__ float operator()(int32_t task) const { return step(load(features + task) + thresholds[task]); }
};

struct Bits {
  const uint8_t* bits;

  __device__ __forceinline__ Bits(const Sets& sets, int64_t row, int32_t tasks)
      : bits(static_cast<const uint8_t*>(sets.features) + row * ((int64_t{tasks} + 7) / 8)) {}

  __device__ __forceinline__ float operator()(int32_t task) const { return float(bits[task / 8] >> (task % 8) & 1); }
};

/// What body gives, called with the type of indicators as its template argument.
template <class Body>
__device__ __forceinline__ auto with_indicators(int32_t type, const Body& body) {
  switch (type) {
    case kFloat32:
      return body.template operator()<Thresholds<float>>();
    case kBFloat16:
      return body.template operator()<Thresholds<bfloat16>>();
    default:
      return body.template operator()<Bits>();
  }
}

/// The sum of the values that the threads of a warp bring, in the order of a fixed tree; for the first of them only. scratch has one place
/// a thread of the warp.
__device__ __forceinline__ double warp_sum(double value, double* scratch, int lane) {
  scratch[lane] = value;
  __syncwarp();
  for (int half = kWarp / 2; half > 0; half /= 2) {
    if (lane < half)
      scratch[lane] += scratch[lane + half];
    __syncwarp();
  }
  return scratch[0];
}

}  // namespace auxcore::td
