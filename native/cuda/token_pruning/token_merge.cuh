// What the .cpp and .cu files of TokenMerge both know.
#pragma once

#include "token_types.cuh"

namespace auxcore::token_merge {

constexpr int kThreads = 256;
constexpr int kTileTokens = 64;

/// Tokens that look for the most similar of others, and those others: lists of a segment begin where the segment does.
struct Match {
  const void* metric;     ///< [tokens, depth]
  const int32_t* bounds;  ///< [segments + 1]
  const uint8_t* targets; ///< [tokens], or null: all with a slot
  int32_t* slots;         ///< [tokens]
  int32_t* offsets;       ///< [segments + 1]; bipartite matching only
  double* scales;         ///< workspace: [tokens]: 1 / norm, 0 where the norm is
  int32_t* sources;       ///< workspace: [tokens]
  int32_t* candidates;    ///< workspace: [tokens]
  int32_t* counts;        ///< workspace: [segments, 2]
  float* similarities;    ///< workspace: [chunks, tokens]
  int32_t* nearest;       ///< workspace: [chunks, tokens]: a place among the candidates
  int32_t type, tokens, depth, segments, chunks;
  int32_t is_bipartite, merged, protect;
};

/// Rows, and the slots that group them.
struct Groups {
  const void* source;
  void* destination;
  const int32_t* slots;
  const float* sizes;    ///< null where each is 1
  float* merged_sizes;   ///< null where they are not wanted
  int32_t* order;        ///< workspace: [tokens]: tokens by slot, then by index
  int32_t* begins;       ///< workspace: [kept + 1]: where the tokens of a slot begin
  int32_t type, tokens, kept, width;
};

}  // namespace auxcore::token_merge
