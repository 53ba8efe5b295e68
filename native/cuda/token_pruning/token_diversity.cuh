// What token_diversity.cpp and token_diversity.cu both know.
#pragma once

#include "token_types.cuh"

namespace auxcore::token_diversity {

constexpr int kThreads = 256;
constexpr int kTileTokens = 64;

struct Arguments {
  const void* source;     ///< [tokens, width]
  const int32_t* bounds;  ///< [segments + 1]
  int32_t* indices;
  int32_t* offsets;     ///< [segments + 1]
  int32_t* slots;       ///< null where they are not wanted
  int32_t* nan_counts;  ///< null where they are not wanted
  double* scales;       ///< workspace: [tokens]: 1 / norm, 0 where the norm is, below 0 where something is not finite
  float* nearest;       ///< workspace: [tokens]: the largest similarity to any other, then to any that is kept
  int32_t* is_chosen;   ///< workspace: [tokens]
  float* similarities;  ///< workspace: [tokens, longest]: of a token to those of its segment
  int32_t type, tokens, width, segments, count, longest, capacity;
};

}  // namespace auxcore::token_diversity
