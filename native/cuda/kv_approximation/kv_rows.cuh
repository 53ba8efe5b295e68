// Rows of a KV cache in shared memory, eight elements a lane, as they are stored: they become float32 in registers.
#pragma once

#include "kv_cache.cuh"
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
  } else if constexpr (kFormat == kE4M3) {
    const uint2 all = *reinterpret_cast<const uint2*>(memory + at + r * 8);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = of_e4m3(all.x >> (8 * i));
      x[4 + i] = of_e4m3(all.y >> (8 * i));
    }
    return 1;
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

/// A warp's copy of an even number of bytes into shared memory, which is aligned to 16, `at` so many bytes after its beginning:
/// asynchronous where both places are alike modulo 16, but for the ends, and else two bytes at a time.
__device__ __forceinline__ void copy_rows(unsigned char* memory, int at, uint64_t source, int bytes, int lane) {
  unsigned char* const to = memory + at;
  const unsigned char* const from = reinterpret_cast<const unsigned char*>(source);
  int begin = (16 - (at & 15)) & 15;  // of what is aligned in both places
  if (begin > bytes || ((unsigned(at) ^ unsigned(source)) & 15u) != 0)
    begin = bytes;
  const int end = begin + (bytes - begin) / 16 * 16;
  for (int i = begin + lane * 16; i < end; i += kWarp * 16)
    copy_async16(to + i, from + i);
  for (int i = lane * 2; i < begin; i += kWarp * 2)
    *reinterpret_cast<uint16_t*>(to + i) = *global<const uint16_t>(source + uint64_t(i));
  for (int i = end + lane * 2; i < bytes; i += kWarp * 2)
    *reinterpret_cast<uint16_t*>(to + i) = *global<const uint16_t>(source + uint64_t(i));
}

/// The rows of one head. `copy` gives where the first of them is in its slot: groups lie there as they do in device memory, modulo 16, and
/// others at its beginning, so that vectors of them are aligned.
struct HeadRows {
  const Cache& cache;
  const Plane& plane;
  HeadTable table;

  __device__ __forceinline__ int copy(unsigned char* slot, int32_t position, int32_t count, int lane) const {
    int phase = 0;
    for (int32_t done = 0; done < count;) {
      int32_t within_it;
      const int32_t outer = table.outer_of(cache, plane, position + done, within_it);
      const int32_t beside = cache.positions - within_it, some = count - done < beside ? count - done : beside;
      const uint64_t from = table.row(plane, outer < 0 ? 0 : outer, within_it);
      if (done == 0 && (plane.format == kQ8 || plane.format == kQ4))
        phase = int(from & 15u);
      copy_rows(slot, phase + done * plane.row_bytes, from, some * plane.row_bytes, lane);
      done += some;
    }
    return phase;
  }
};

}  // namespace auxcore::kv
