// Tokens as unit vectors in float32, as UnitVectors.cs rounds them: norms in double, and a vector of norm 0 stays 0.
#pragma once

#include "token_device.cuh"

namespace auxcore::tokens {

/// Σ x² of a token in double, for the first lane of the warp that calls it. own: a place a lane.
__device__ __forceinline__ double sum_of_squares(const void* rows, int32_t type, int64_t token, int32_t depth, double* own) {
  double sum = 0;
  for (int32_t k = own_lane(); k < depth; k += kWarp) {
    const double value = load(rows, type, token * depth + k);
    sum = __dadd_rn(sum, __dmul_rn(value, value));
  }
  own[own_lane()] = sum;
  __syncwarp();
  for (int half = kWarp / 2; half > 0; half /= 2) {
    if (own_lane() < half)
      own[own_lane()] += own[own_lane() + half];
    __syncwarp();
  }
  return own[0];
}

/// What elements are multiplied by: 1 / norm, 0 where the norm is.
__device__ __forceinline__ double scale_of(double squares) { return squares == 0 ? 0 : 1 / __dsqrt_rn(squares); }

/// An element of a unit vector.
__device__ __forceinline__ float unit(const void* rows, int32_t type, int64_t token, int32_t depth, int32_t k, double scale) {
  const float value = load(rows, type, token * depth + k), narrow = float(scale);
  const bool is_normal = fabsf(narrow) >= 0x1p-126f && fabsf(narrow) < infinity();
  return is_normal ? product(value, narrow) : float(__dmul_rn(double(value), scale));
}

}  // namespace auxcore::tokens
