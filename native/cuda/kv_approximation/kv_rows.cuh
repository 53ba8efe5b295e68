// Rows of a KV cache in shared memory, eight elements a lane, as they are stored: they become float32 in registers.
#pragma once

#include "kv_codec.cuh"

namespace auxcore::kv {

/// The element of a row that is the e-th of lane r's. The halves of a byte of q4_0 are 16 elements apart.
__device__ __forceinline__ int column_of(int32_t format, int r, int e) {
  return format == kQ4 ? r / 4 * kGroup + r % 4 * 4 + e % 4 + e / 4 * (kGroup / 2) : r * 8 + e;
}

/// Whether elements are to be multiplied by what load_row gives.
template <int kFormat>
constexpr bool kIsScaled = kFormat == kQ8 || kFormat == kQ4;

/// Two words from an even address on, which are in three words.
__device__ __forceinline__ void load_words(const unsigned char* memory, int at, uint32_t& low, uint32_t& high) {
  const uint32_t* const words = reinterpret_cast<const uint32_t*>(memory + (at & ~3));
  const uint32_t selector = (at & 2) != 0 ? 0x5432u : 0x3210u;
  const uint32_t middle = words[1];
  low = __byte_perm(words[0], middle, selector);
  high = __byte_perm(middle, words[2], selector);
}

/// Lane r's elements of the row that begins `at` so many bytes after `memory`, which is aligned to 16; their scale.
template <int kFormat>
__device__ __forceinline__ float load_row(const unsigned char* memory, int at, int r, float (&x)[8]) {
  if constexpr (kFormat == kF32) {
    const float4* const from = reinterpret_cast<const float4*>(memory + at + r * 32);
    const float4 low = from[0], high = from[1];
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
    return 1;
  } else if constexpr (kFormat == kF16 || kFormat == kBF16) {
    const uint4 all = *reinterpret_cast<const uint4*>(memory + at + r * 16);
    const uint32_t words[4] = {all.x, all.y, all.z, all.w};
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if constexpr (kFormat == kBF16) {
        x[2 * i] = as_float(words[i] << 16);
        x[2 * i + 1] = as_float(words[i] & 0xffff0000u);
      } else {
        x[2 * i] = widen(float16{uint16_t(words[i])});
        x[2 * i + 1] = widen(float16{uint16_t(words[i] >> 16)});
      }
    return 1;
  } else if constexpr (kFormat == kQ8) {
    const int group = at + r / 4 * kQ8Bytes;
    uint32_t low, high;
    load_words(memory, group + 2 + r % 4 * 8, low, high);
    low ^= 0x80808080u;
    high ^= 0x80808080u;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = of_q8(low, i);
      x[4 + i] = of_q8(high, i);
    }
    return widen(float16{*reinterpret_cast<const uint16_t*>(memory + group)});
  } else {
    const int group = at + r / 4 * kQ4Bytes, from = group + 2 + r % 4 * 4;
    const uint32_t* const words = reinterpret_cast<const uint32_t*>(memory + (from & ~3));
    const uint32_t halves = __byte_perm(words[0], words[1], (from & 2) != 0 ? 0x5432u : 0x3210u);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = of_q4(halves & 0x0f0f0f0fu, i);
      x[4 + i] = of_q4(halves >> 4 & 0x0f0f0f0fu, i);
    }
    return widen(float16{*reinterpret_cast<const uint16_t*>(memory + group)});
  }
}

/// Where rows lie in a slot: groups where they do in device memory, modulo 16; others at its beginning, so that vectors of them are aligned.
__device__ __forceinline__ int phase_of(const unsigned char* from, bool is_grouped) {
  return is_grouped ? int(reinterpret_cast<uintptr_t>(from) & 15u) : 0;
}

/// A warp's copy of an even number of bytes into a slot, asynchronous but for its ends. What is not aligned to 16 bytes takes a slow way.
__device__ __forceinline__ void copy_rows(unsigned char* slot, const unsigned char* from, int bytes, bool is_grouped, int lane) {
  const int phase = int(reinterpret_cast<uintptr_t>(from) & 15u);
  unsigned char* const to = slot + (is_grouped ? phase : 0);
  int begin = phase == 0 ? 0 : 16 - phase;  // of what is aligned in both places
  if (begin > bytes || (phase != 0 && !is_grouped))
    begin = bytes;
  const int end = begin + (bytes - begin) / 16 * 16;
  for (int i = begin + lane * 16; i < end; i += kWarp * 16)
    copy_async16(to + i, from + i);
  for (int i = lane * 2; i < begin; i += kWarp * 2)
    *reinterpret_cast<uint16_t*>(to + i) = *reinterpret_cast<const uint16_t*>(from + i);
  for (int i = end + lane * 2; i < bytes; i += kWarp * 2)
    *reinterpret_cast<uint16_t*>(to + i) = *reinterpret_cast<const uint16_t*>(from + i);
}

}  // namespace auxcore::kv
