// What kv_evict.cpp and kv_evict.cu both know.
#pragma once

#include "../token_pruning/token_types.cuh"
#include "kv_types.cuh"

namespace auxcore::kv_evict {

constexpr int kMoveThreads = 256;
constexpr int kTogether = 4;  ///< rows of a thread whose loads are under way at once
constexpr int kColumn = 32;   ///< bytes of each row that a block moves: a sector, so that there are blocks enough

/// A head within its sequence, whose positions lie side by side: where its own begin, and those of them that are kept.
struct Head {
  int32_t begin, length;
  int32_t first, count;  ///< of the sequence's indices
};

struct Arguments {
  kv::Cache cache;
  const float* scores;      ///< [heads of all sequences, score_positions]
  int32_t* lengths;         ///< [heads of all sequences]
  int32_t* numbers;         ///< [heads of all sequences, number_positions]; null where there are none
  const int32_t* counts;    ///< [heads of all sequences]: how many each keeps, whatever the budgets below; null where there are none
  float* means;             ///< workspace, as the rest: [batch, kv_heads * score_positions]
  int32_t* indices;         ///< likewise: what is kept, numbered within its sequence, ascending
  uint8_t* always;          ///< likewise: what is kept whatever its score
  Head* heads;              ///< [heads of all sequences]
  tokens::Budget budget;    ///< of a head
  tokens::Budget own;       ///< what a head keeps whatever the others have, where heads share
  double head_floor;        ///< what part of its count is a head's own, where heads share and there are counts
  int32_t score_positions;
  int32_t number_positions;
  int32_t pool_width;
  int32_t sinks;
  int32_t recent;
  int32_t heads_share;
  int32_t key_bytes, value_bytes;  ///< of one access to a row
};

/// Blocks that move the rows of a head's keys, or values.
constexpr int32_t columns_of(const kv::Plane& plane) { return (plane.row_bytes + kColumn - 1) / kColumn; }

}  // namespace auxcore::kv_evict
