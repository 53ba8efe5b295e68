// Functions that device code has on every compiler: clang brings none without libdevice, and bits are the same on the device and in the
// simulator.
#pragma once

#include "device.cuh"

namespace auxcore {

__device__ __forceinline__ float infinity() { return as_float(0x7f800000u); }

/// a · b, rounded: never one operation with an addition that follows, as compilers like to make of it.
__device__ __forceinline__ float product(float a, float b) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("mul.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return a * b;
#endif
}

/// e^x within a few units in the last place, 0 below -87; exponents by Cody and Waite, then a polynomial.
__device__ __forceinline__ float exp_of(float x) {
  const float bounded = x > 88.0f ? 88.0f : x < -87.0f ? -87.0f : x;
  const float shifted = fmaf(bounded, 1.44269504f, 12582912.0f), n = shifted - 12582912.0f;
  const float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, bounded));
  float p = fmaf(1.9875691500e-4f, r, 1.3981999507e-3f);
  p = fmaf(p, r, 8.3334519073e-3f);
  p = fmaf(p, r, 4.1665795894e-2f);
  p = fmaf(p, r, 1.6666665459e-1f);
  p = fmaf(p, r, 5.0000001201e-1f);
  p = fmaf(p, r * r, r) + 1.0f;
  const float power = p * as_float(uint32_t(int32_t(as_bits(shifted)) - 0x4b400000 + 127) << 23);
  return x < -87.0f ? 0.0f : x != x ? x : power;
}

/// The natural logarithm of a normal number above 0, to about 1e-14.
__device__ __forceinline__ double log_of(double x) {
  if (!(x > 0))
    return x == 0 ? -double(infinity()) : x * 0 / 0.0;  // NaN
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  int32_t exponent = int32_t(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffffull) | 1023ull << 52;
  double mantissa;
  __builtin_memcpy(&mantissa, &bits, sizeof mantissa);
  if (mantissa > 1.4142135623730951) {
    mantissa *= 0.5;
    ++exponent;
  }
  // 2 artanh t, with |t| below 0.172.
  const double t = (mantissa - 1) / (mantissa + 1), square = t * t;
  double series = 0;
#pragma unroll
  for (int k = 17; k >= 1; k -= 2)
    series = series * square + 1.0 / k;
  return exponent * 0.69314718055994531 + 2 * t * series;
}

}  // namespace auxcore
