// Elements and groups of a KV cache between float32 and the formats in which they are stored, bit for bit as
// src/Kernels/KvApproximation/KvQuantise.Cpu.cs does it. A group is in eight neighbouring lanes of a warp, four elements a lane.
#pragma once

#include "../device/device.cuh"
#include "kv_types.cuh"

namespace auxcore::kv {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr uint32_t kInfinity = 0x7f800000u;

/// A lane's four elements of a group, or four elements of their own.
struct Four {
  float x[4];
};

/// Rounded to nearest, ties to even; a NaN keeps its sign and upper payload.
__device__ __forceinline__ uint32_t to_f16(float x) {
  const uint32_t bits = as_bits(x);
  if (x != x)
    return 0x7e00u | (bits >> 13 & 0x3ffu) | (bits >> 16 & 0x8000u);
  return narrow_to(float16{}, x).bits;
}

__device__ __forceinline__ uint32_t to_bf16(float x) { return narrow_to(bfloat16{}, x).bits; }

/// The nearest E4M3, at most 448: steps of 2^-3 of each binade, and of 2^-9 below 2^-6, to which adding 2^14 rounds.
__device__ __forceinline__ uint32_t to_e4m3(float x, float scale) {
  const float scaled = x / scale;
  uint32_t magnitude = as_bits(scaled) & 0x7fffffffu;
  magnitude = magnitude < 0x43e00000u ? magnitude : 0x43e00000u;
  uint32_t narrow = (magnitude - (120u << 23) + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20;
  if (magnitude < 121u << 23)
    narrow = as_bits(__fadd_rn(as_float(magnitude), 16384.0f)) - (141u << 23);
  if (x != x)
    narrow = 0x7fu;
  return narrow | (as_bits(x) >> 24 & 0x80u);  // a quotient that is NaN has no sign of its own
}

__device__ __forceinline__ float of_e4m3(uint32_t bits) {
  const uint32_t magnitude = bits & 0x7fu;
  const float value = as_float(magnitude << 20) * 0x1p120f;
  return as_float(magnitude == 0x7fu ? 0x7fc00000u : as_bits(value) | (bits & 0x80u) << 24);
}

/// What a group shares.
struct GroupScale {
  uint32_t stored;  ///< the binary16
  float inverse;    ///< what elements are multiplied with; 0 where there is none
  bool is_finite;
};

/// d as it is stored: NaN where the group has one or an infinity, at most 65504.
__device__ __forceinline__ GroupScale scale_of(float d, bool is_finite) {
  if (!is_finite)
    return {0x7e00u, 0.0f, false};
  uint32_t stored = narrow_to(float16{}, d).bits;
  if ((stored & 0x7fffu) == 0x7c00u) {
    d = as_float(0x477fe000u | (as_bits(d) & 0x80000000u));
    stored -= 1;
  }
  const float inverse = 1.0f / d;  // infinite where d is 0 too
  return {stored, (as_bits(inverse) & 0x7fffffffu) == kInfinity ? 0.0f : inverse, true};
}

/// The bits of the greatest magnitude of a group; above those of infinity where there is a NaN.
__device__ __forceinline__ uint32_t largest_of_group(const Four& four) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t magnitude = as_bits(four.x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
#pragma unroll
  for (int with = 4; with > 0; with /= 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, largest, with);
    largest = other > largest ? other : largest;
  }
  return largest;
}

/// q8_0: four signed bytes, the first in the lowest. Halves are rounded away from zero.
__device__ __forceinline__ uint32_t quantise_q8(const Four& four, GroupScale& scale) {
  const uint32_t largest = largest_of_group(four);
  scale = scale_of(as_float(largest) / 127.0f, largest < kInfinity);
  uint32_t packed = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float x = __fmul_rn(scale.is_finite ? four.x[i] : 0.0f, scale.inverse);
    const float magnitude = fminf(fabsf(x), 127.0f);
    int q = int(magnitude);
    q += magnitude - float(q) >= 0.5f;
    packed |= (uint32_t(x < 0 ? -q : q) & 0xffu) << (8 * i);
  }
  return packed;
}

/// q4_0: four half bytes, each in a byte of its own. The first element of greatest magnitude gives the scale its sign.
__device__ __forceinline__ uint32_t quantise_q4(const Four& four, int lane_of_group, GroupScale& scale) {
  const uint32_t largest = largest_of_group(four);
  int first = 64;  // twice the place of the first, and 1 where it is negative
#pragma unroll
  for (int i = 3; i >= 0; --i)
    if ((as_bits(four.x[i]) & 0x7fffffffu) == largest)
      first = (lane_of_group * 4 + i) * 2 + int(as_bits(four.x[i]) >> 31);
#pragma unroll
  for (int with = 4; with > 0; with /= 2) {
    const int other = __shfl_xor_sync(kAllLanes, first, with);
    first = other < first ? other : first;
  }
  // 0 / -8, also where the first zero is negative.
  const float extreme = as_float(largest | (largest != 0 ? uint32_t(first & 1) << 31 : 0u));
  scale = scale_of(extreme / -8.0f, largest < kInfinity);
  uint32_t packed = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float x = __fadd_rn(__fmul_rn(scale.is_finite ? four.x[i] : 0.0f, scale.inverse), 8.5f);
    packed |= uint32_t(scale.is_finite ? fminf(fmaxf(x, 0.0f), 15.0f) : 8.0f) << (8 * i);
  }
  return packed;
}

/// x rounded down to binary16, within those that are finite; -0 becomes +0.
__device__ __forceinline__ uint32_t half_at_most(float x) {
  uint32_t bits = narrow_to(float16{}, fminf(fmaxf(x, -65504.0f), 65504.0f)).bits;
  if (widen(float16{uint16_t(bits)}) > x && bits != 0xfbffu)
    bits = (bits & 0x8000u) != 0 ? bits + 1 : bits - 1;
  return (bits & 0x7fffu) == 0 ? 0 : bits;
}

/// x rounded up, likewise.
__device__ __forceinline__ uint32_t half_at_least(float x) {
  const uint32_t bits = half_at_most(-x);
  return bits == 0 ? 0 : bits ^ 0x8000u;
}

/// What a group of KIVI-4 shares.
struct KiviScale {
  uint32_t stored;  ///< the scale, and above it the zero point
  float shift;      ///< what is taken from elements, and
  float inverse;    ///< what they are then multiplied with
  bool is_finite;
};

/// What four elements of each of eight neighbouring lanes share.
__device__ __forceinline__ KiviScale kivi_scale_of(const Four& four) {
  const bool is_finite = largest_of_group(four) < kInfinity;
  float least = fminf(fminf(four.x[0], four.x[1]), fminf(four.x[2], four.x[3]));
  float greatest = fmaxf(fmaxf(four.x[0], four.x[1]), fmaxf(four.x[2], four.x[3]));
#pragma unroll
  for (int with = 4; with > 0; with /= 2) {
    least = fminf(least, __shfl_xor_sync(kAllLanes, least, with));
    greatest = fmaxf(greatest, __shfl_xor_sync(kAllLanes, greatest, with));
  }
  if (!is_finite)
    return {0xfe00u, 0.0f, 0.0f, false};
  const uint32_t m = half_at_most(least);
  const float shift = widen(float16{uint16_t(m)});
  const uint32_t s = half_at_least(__fadd_rn(greatest, -shift) / 15.0f);
  return {s | m << 16, shift, s == 0 ? 0.0f : 1.0f / widen(float16{uint16_t(s)}), true};
}

/// KIVI-4: four half bytes, each in a byte of its own.
__device__ __forceinline__ uint32_t quantise_kivi(const Four& four, KiviScale& scale) {
  scale = kivi_scale_of(four);
  uint32_t packed = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float x = __fadd_rn(__fmul_rn(__fadd_rn(scale.is_finite ? four.x[i] : 0.0f, -scale.shift), scale.inverse), 0.5f);
    packed |= uint32_t(fminf(fmaxf(x, 0.0f), 15.0f)) << (8 * i);
  }
  return packed;
}

constexpr int kGroupLanes = kGroup / 4;

/// A lane's part of a group as it is stored, and the scales that the group has in front.
template <int kFormat>
__device__ __forceinline__ uint32_t quantise_group(const Four& four, int lane_of_group, uint32_t& scales) {
  uint32_t packed;
  if constexpr (kFormat == kKivi) {
    KiviScale scale;
    packed = quantise_kivi(four, scale);
    scales = scale.stored;
  } else {
    GroupScale scale;
    packed = kFormat == kQ8 ? quantise_q8(four, scale) : quantise_q4(four, lane_of_group, scale);
    scales = scale.stored;
  }
  if constexpr (kFormat != kQ8)
    packed |= __shfl_xor_sync(kAllLanes, packed, kGroupLanes / 2) << 4;  // elements 16 … 31 are the upper halves
  return packed;
}

/// Writes a lane's part of a group, and the first lane the scales. Group: a pointer to 16 bits, in any memory.
template <int kFormat, class Group>
__device__ __forceinline__ void store_group(Group group, int lane_of_group, uint32_t scales, uint32_t packed) {
  constexpr int kScales = kFormat == kKivi ? 2 : 1;
  if (lane_of_group == 0) {
    group[0] = uint16_t(scales);
    if (kScales == 2)
      group[1] = uint16_t(scales >> 16);
  }
  if (kFormat == kQ8 || lane_of_group < kGroupLanes / 2) {
    group[kScales + 2 * lane_of_group] = uint16_t(packed);
    group[kScales + 1 + 2 * lane_of_group] = uint16_t(packed >> 16);
  }
}

/// Byte i of a word, as a whole number of 0 to 255 plus 2^23: one instruction, where a conversion takes the time of four.
__device__ __forceinline__ float shifted_byte(uint32_t word, int i) { return as_float(__byte_perm(word, 0x4b000000u, 0x7540u | i)); }

/// Signed byte i of a word whose sign bits were flipped.
__device__ __forceinline__ float of_q8(uint32_t flipped, int i) { return shifted_byte(flipped, i) - 8388736.0f; }

/// Byte i of a word of half bytes.
__device__ __forceinline__ float of_kivi(uint32_t halves, int i) { return shifted_byte(halves, i) - 8388608.0f; }

/// Byte i of a word of half bytes, less 8.
__device__ __forceinline__ float of_q4(uint32_t halves, int i) { return shifted_byte(halves, i) - 8388616.0f; }

}  // namespace auxcore::kv
