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

/// The halves of a word of KIVI-4 that are elements 0 … 15 of a group, or those that are 16 … 31.
__device__ __forceinline__ uint32_t kivi_halves(uint32_t word, int element) { return word >> (element / (kGroup / 2) * 4) & 0x0f0f0f0fu; }

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
  } else if constexpr (kFormat == kKivi) {
    const uint32_t* const words = reinterpret_cast<const uint32_t*>(memory + at + r / 4 * kKiviBytes);
    const float s = widen(float16{uint16_t(words[0])}), m = widen(float16{uint16_t(words[0] >> 16)});
    const int first = r % 4 * 8;  // of the group's elements
    const uint32_t low = kivi_halves(words[1 + first % 16 / 4], first), high = kivi_halves(words[2 + first % 16 / 4], first);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = fmaf(of_kivi(low, i), s, m);
      x[4 + i] = fmaf(of_kivi(high, i), s, m);
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
      if (done == 0 && group_of(plane.format) > 1)
        phase = int(from & 15u);
      copy_rows(slot, phase + done * plane.row_bytes, from, some * plane.row_bytes, lane);
      done += some;
    }
    return phase;
  }

  /// Where the block of KIVI's keys begins that has a position.
  __device__ __forceinline__ uint64_t block(int32_t position) const {
    return row_of(position / kGroup * kGroup);
  }

  /// The same rows in float32, of KIVI-4: those from `stored` on are in the ring, those before it are restored.
  __device__ __forceinline__ void copy_latest(
      unsigned char* slot, int32_t position, int32_t count, int32_t stored, bool is_keys, int lane) const {
    const int row_bytes = cache.head_dim * int(sizeof(float));
    for (int32_t i = 0; i < count; ++i) {
      if (position + i >= stored)
        copy_rows(slot, i * row_bytes, ring_row(cache, plane, table.sequence, table.kv_head, position + i), row_bytes, lane);
      else
        restore(reinterpret_cast<float*>(slot + i * row_bytes), position + i, is_keys, lane);
    }
  }

 private:
  __device__ __forceinline__ uint64_t row_of(int32_t position) const {
    int32_t within_it;
    const int32_t outer = table.outer_of(cache, plane, position, within_it);
    return table.row(plane, outer < 0 ? 0 : outer, within_it);
  }

  __device__ __forceinline__ void restore(float* row, int32_t position, bool is_keys, int lane) const {
    const uint64_t first = is_keys ? block(position) : row_of(position);
    for (int i = lane; i < cache.head_dim; i += kWarp) {
      const int element = is_keys ? position % kGroup : i % kGroup;
      const AUXCORE_GLOBAL uint32_t* const group = global<const uint32_t>(first + uint64_t((is_keys ? i : i / kGroup) * kKiviBytes));
      const uint32_t halves = kivi_halves(group[1 + element % 16 / 4], element);
      row[i] = fmaf(float(halves >> (element % 4 * 8) & 15u), widen(float16{uint16_t(group[0])}), widen(float16{uint16_t(group[0] >> 16)}));
    }
  }
};

}  // namespace auxcore::kv
