// A layer's KV cache as kernels see it, contiguous or in pages: where the rows of a head lie.
#pragma once

#include "../device/device.cuh"
#include "kv_types.cuh"

namespace auxcore::kv {

/// Where one head of one sequence has its rows. Nothing in device memory leads out of the cache.
struct HeadTable {
  uint64_t pages;  ///< 0 where there are none
  int32_t capacity;
  int32_t sequence;
  int32_t kv_head;

  __device__ __forceinline__ HeadTable(const Cache& cache, int32_t sequence_, int32_t kv_head_)
      : pages(0), capacity(cache.positions), sequence(sequence_), kv_head(kv_head_) {
    if (cache.page_offsets == nullptr)
      return;
    const int64_t table = cache.pages_are_of_heads ? int64_t{sequence} * cache.kv_heads + kv_head : sequence;
    const int32_t begin = within(cache.page_offsets[table], 0, cache.page_count);
    const int32_t end = within(cache.page_offsets[table + 1], begin, cache.page_count);
    const int64_t room = int64_t{end - begin} * cache.positions;
    pages = reinterpret_cast<uint64_t>(cache.pages) + uint64_t(begin) * sizeof(int32_t);
    capacity = room > 0x7fffffff ? 0x7fffffff : int32_t(room);
  }

  /// The sequence or page that a position is in; `within_it` is its place there. -1 for a page that is none.
  __device__ __forceinline__ int32_t outer_of(const Cache& cache, const Plane& plane, int32_t position, int32_t& within_it) const {
    within_it = position;
    if (pages == 0)
      return sequence;
    const unsigned page = unsigned(position) / unsigned(cache.positions);
    within_it = position - int32_t(page) * cache.positions;
    const int32_t outer = global<const int32_t>(pages)[page];
    return unsigned(outer) < unsigned(plane.outer_count) ? outer : -1;
  }

  __device__ __forceinline__ uint64_t row(const Plane& plane, int32_t outer, int32_t within_it) const {
    return plane.first + uint64_t(outer * plane.outer_step + kv_head * plane.head_step + int64_t{within_it} * plane.row_bytes);
  }

  static __device__ __forceinline__ int32_t within(int32_t value, int32_t least, int32_t most) {
    return value < least ? least : value > most ? most : value;
  }
};

/// How many of a head's first positions are stored in the plane's format. Those after them are in its ring.
__device__ __forceinline__ int32_t stored_of(const Plane& plane, bool is_keys, int32_t length) {
  if (plane.format != kKivi)
    return length;
  const int32_t left = length - (plane.ring_positions - kGroup);
  return left <= 0 ? 0 : is_keys ? left / kGroup * kGroup : left;
}

/// Where the ring has a position, which is not negative.
__device__ __forceinline__ uint64_t ring_row(const Cache& cache, const Plane& plane, int32_t sequence, int32_t kv_head, int32_t position) {
  const int64_t row = (int64_t{sequence} * cache.kv_heads + kv_head) * plane.ring_positions + position % plane.ring_positions;
  return reinterpret_cast<uint64_t>(plane.ring) + uint64_t(row * cache.head_dim) * sizeof(float);
}

__device__ __forceinline__ float scale_of_head(const Plane& plane, int32_t kv_head) {
  return plane.scale_count == 0
      ? 1.0f
      : global<const float>(reinterpret_cast<uint64_t>(plane.scales))[plane.scale_count == 1 ? 0 : kv_head];
}

}  // namespace auxcore::kv
