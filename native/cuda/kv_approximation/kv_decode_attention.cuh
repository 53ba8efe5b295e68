// What kv_decode_attention.cpp and kv_decode_attention.cu both know.
#pragma once

#include "kv_types.cuh"

namespace auxcore::kv_decode_attention {

constexpr int kWarps = 4;  ///< of a block
constexpr int kThreads = kWarps * kv::kWarp;
constexpr int kMergeThreads = 128;
constexpr int kMostHeads = 8;       ///< query heads of a block, which share each key and value that is read
constexpr int kVector = 8;          ///< elements of a row that a lane has
constexpr int kStages = 2;          ///< tiles of a warp in shared memory: one is worked on, one on its way
constexpr int kSlack = 32;          ///< bytes of a slot beyond its rows: their phase, and the word after the last
constexpr int kMostSplits = 128;
constexpr int kLeastPositions = 256;  ///< of the capacity, that a split is for

// clang takes constexpr functions for those of both sides; nvcc wants to be told.
#if defined(__NVCC__)
#  define AUXCORE_KV_BOTH __host__ __device__
#else
#  define AUXCORE_KV_BOTH
#endif

/// The shared memory of a block: for each warp a slot of keys and one of values in each stage, then its scores; after those of all warps,
/// for keys in KIVI-4, the queries. At the end of the kernel, in the same place, what its warps found.
struct Layout {
  int32_t tile;         ///< positions that a warp works on at a time: a power of two
  int32_t latest_tile;  ///< likewise where rows of KIVI-4 are read in float32; 0 for other formats
  int32_t key_slot;     ///< bytes
  int32_t value_slot;
  int32_t queries;      ///< bytes before the queries [head_dim, heads]
  int32_t bytes;        ///< of a block

  AUXCORE_KV_BOTH constexpr Layout(const kv::Cache& cache, int32_t heads)
      : tile(kv::kWarp), latest_tile(0), key_slot(0), value_slot(0), queries(0), bytes(0) {
    constexpr int32_t kTileBytes = 4608;
    const bool has_blocks = cache.keys.format == kv::kKivi, has_ring = has_blocks || cache.values.format == kv::kKivi;
    const int32_t wide = cache.head_dim * 4;
    const int32_t key_row = has_blocks ? 0 : cache.keys.row_bytes, latest_key = has_blocks ? wide : key_row;  // blocks go to registers
    const int32_t value_row = cache.values.row_bytes, latest_value = cache.values.format == kv::kKivi ? wide : value_row;
    if (has_ring)
      latest_tile = kv::kWarp;
    while (latest_tile > 1 && latest_tile * (latest_key + latest_value) > kTileBytes / 2)
      latest_tile /= 2;
    while (tile > 1 && larger(tile * key_row, latest_tile * latest_key) + larger(tile * value_row, latest_tile * latest_value) > kTileBytes)
      tile /= 2;
    key_slot = slot(larger(tile * key_row, latest_tile * latest_key));
    value_slot = slot(larger(tile * value_row, latest_tile * latest_value));
    queries = kWarps * warp_bytes(heads);
    bytes = larger(queries + (has_blocks ? wide * heads : 0), kWarps * heads * (cache.head_dim + 2) * 4);
  }

  AUXCORE_KV_BOTH constexpr int32_t warp_bytes(int32_t heads) const {
    return kStages * (key_slot + value_slot) + (tile * heads * 4 + 15) / 16 * 16;
  }

  AUXCORE_KV_BOTH static constexpr int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

  AUXCORE_KV_BOTH static constexpr int32_t slot(int32_t rows) { return (rows + 15) / 16 * 16 + kSlack; }
};

struct Arguments {
  kv::Cache cache;
  const float* query;
  const int32_t* lengths;
  float* output;
  float* maxima;         ///< [batch, query_heads, splits]
  float* sums;           ///< likewise
  float* partials;       ///< [batch, query_heads, splits, head_dim]
  float* scores;         ///< [batch, query_heads, sum_positions], and
  float* totals;         ///< [batch, query_heads, 2]: maximum and sum of each head; null where position_sums is
  float* position_sums;  ///< [batch, kv_heads, sum_positions]
  double factor;         ///< scale · log2 e: weights are powers of 2
  int32_t lengths_are_of_heads;
  int32_t sum_positions;
  int32_t query_heads;
  int32_t heads;        ///< query heads of a block
  int32_t head_blocks;  ///< blocks that a head of the cache has for its query heads
  int32_t splits;
  int32_t lanes;        ///< of a warp, that share a position: 8, 16 or 32
};

constexpr int kSumThreads = 256;

}  // namespace auxcore::kv_decode_attention
