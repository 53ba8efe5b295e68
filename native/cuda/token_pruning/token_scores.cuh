// What token_scores.cpp and token_scores.cu both know.
#pragma once

#include "token_types.cuh"

namespace auxcore::token_scores {

constexpr int kThreads = 256;
constexpr int kTileRows = 64;       ///< rows, and keys, of a tile where there are many rows
constexpr int kMostChunks = 64;     ///< of the keys of a head where there are few
constexpr int kManyRows = 24;       ///< so many rows that share a head of keys are many
constexpr int kStagedDepth = 256;   ///< elements of a query in shared memory at once
constexpr int kRowsAtOnce = 512;    ///< normalisations in shared memory at once

/// A softmax so far: the largest logit, and the sum of exponentials relative to it.
struct Softmax {
  double sum;
  float largest, reserved;
};

struct Steps {
  int64_t batch, head, row;
};

struct Arguments {
  const void* queries;
  const void* keys;
  const float* log_sum_exp;   ///< null where it is to be computed
  const float* head_weights;  ///< null for the mean
  float* scores;
  float* logits;       ///< workspace, few rows: [batch, query_heads, rows, tokens]
  Softmax* softmaxes;  ///< workspace: [batch, query_heads, rows, chunks]
  double* partial;     ///< workspace, many rows: [splits, batch, tokens]
  Steps query_steps, key_steps;
  int32_t type, batch, query_heads, key_heads, rows, tokens, depth, causal;
  int32_t chunks;  ///< of a head's keys, few rows; 1 where there are many
  int32_t splits;  ///< of the heads, many rows
  float scale;
  double weight;  ///< of a head where none is given; a float32
};

}  // namespace auxcore::token_scores
