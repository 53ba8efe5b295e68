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

/// Sine and cosine of an angle below 2^31, within about 1e-16. Quarter turns are taken off in three parts (Cody and Waite), then the
/// polynomials of fdlibm on ±π/4.
__device__ __forceinline__ void sine_cosine(double angle, double& sine, double& cosine) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 · 2^52: a sum with it is rounded to an integer
  const double shifted = fma(angle, 0.63661977236758134, kRound), turns = shifted - kRound;
  uint64_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  const double r = fma(turns, 1.4973849048591698e-33, fma(turns, -6.1232339957367660e-17, fma(turns, -1.5707963267948966, angle)));
  const double z = r * r;
  double s = fma(z, 1.58969099521155010221e-10, -2.50507602534068634195e-08);
  s = fma(z, s, 2.75573137070700676789e-06);
  s = fma(z, s, -1.98412698298579493134e-04);
  s = fma(z, s, 8.33333333332248946124e-03);
  s = fma(z, s, -1.66666666666666324348e-01);
  s = fma(r * z, s, r);
  double c = fma(z, -1.13596475577881948265e-11, 2.08757232129817482790e-09);
  c = fma(z, c, -2.75573143513906633035e-07);
  c = fma(z, c, 2.48015872894767294178e-05);
  c = fma(z, c, -1.38888888888741095749e-03);
  c = fma(z, c, 4.16666666666666019037e-02);
  c = fma(z * z, c, fma(z, -0.5, 1.0));
  const bool is_swapped = (bits & 1) != 0;
  const double first = is_swapped ? c : s, second = is_swapped ? s : c;
  sine = (bits & 2) != 0 ? -first : first;
  cosine = ((bits + 1) & 2) != 0 ? -second : second;
}

/// The same rounded to float32; NaN beyond 2^31.
__device__ __forceinline__ void sine_cosine(double angle, float& sine, float& cosine) {
  double s, c;
  sine_cosine(angle, s, c);
  const bool is_large = !(angle < 2147483648.0 && angle > -2147483648.0);
  sine = is_large ? as_float(0x7fc00000u) : float(s);
  cosine = is_large ? as_float(0x7fc00000u) : float(c);
}

}  // namespace auxcore
