// What the host and the device code of the KV cache's ops both know.
#pragma once

#include <stdint.h>

namespace auxcore::kv {

constexpr int kWarp = 32;

/// How elements are stored: AUXCORE_KV_F32, … and AuxCore.Kernels.KvFormat.
enum Format : int32_t { kF32 = 0, kF16 = 1, kBF16 = 2, kE4M3 = 3, kQ8 = 4, kQ4 = 5, kKivi = 6 };

constexpr int kMostHeadDim = 256;
constexpr int32_t kFormats = 7;
constexpr int kGroup = 32;        ///< elements that share a scale, in the formats that have one
constexpr int kQ8Bytes = 34;      ///< of a group: a binary16, then a byte an element
constexpr int kQ4Bytes = 18;      ///< of a group: a binary16, then half a byte an element
constexpr int kKiviBytes = 20;    ///< of a group: two binary16, then half a byte an element

/// Elements that are stored together.
constexpr int group_of(int32_t format) { return format == kQ8 || format == kQ4 || format == kKivi ? kGroup : 1; }

/// Their bytes.
constexpr int group_bytes_of(int32_t format) {
  return format == kQ8 ? kQ8Bytes : format == kQ4 ? kQ4Bytes : format == kKivi ? kKiviBytes : format == kF32 ? 4 : format == kE4M3 ? 1 : 2;
}

/// What an address is a multiple of.
constexpr int alignment_of(int32_t format) { return format == kF32 || format == kKivi ? 4 : format == kE4M3 ? 1 : 2; }

/// The keys, or the values. Steps are in bytes.
struct Plane {
  uint64_t first;
  int64_t outer_step;  ///< from one sequence, or page, to the next
  int64_t head_step;   ///< 0 where a page holds one head
  const float* scales;
  int32_t scale_count;  ///< 0, 1, or one a head
  int32_t format;
  int32_t row_bytes;  ///< of KIVI-4's keys, of which 32 rows are a block, one channel's group after the other: a 32nd of the block
  int32_t outer_count;
  float* ring = nullptr;  ///< of KIVI-4: [batch, kv_heads, ring_positions, head_dim], the latest rows, each at its position's remainder
  int32_t ring_positions = 0;  ///< a window that is never quantised, and a group
};

struct Cache {
  Plane keys;
  Plane values;
  const int32_t* page_offsets;  ///< null where the cache is contiguous
  const int32_t* pages;
  int32_t page_count;
  int32_t batch;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t positions;  ///< that lie side by side
  int32_t pages_are_of_heads;
};

}  // namespace auxcore::kv
