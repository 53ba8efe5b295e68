// What info_nce_loss.cpp and info_nce_loss.cu both know.
#pragma once

#include "pair_types.cuh"

namespace auxcore::info_nce {

using pairs::kThreads;
using pairs::kTile;

constexpr int kWarp = 32;

/// The numbers of auxcore.h.
enum Similarity : int32_t { kNegativeDistance = 0, kNegativeSquaredDistance = 1, kDot = 2, kCosine = 3 };

/// One batch and its workspace.
struct Batch {
  const void* queries;  ///< [count, dimension]
  const void* keys;     ///< [count, dimension]
  float* query_gradient;
  float* key_gradient;
  double* loss;             ///< two parts
  float* centre;            ///< workspace: [dimension]: the mean of the keys, where logits are distances
  float* query_terms;       ///< workspace: [count]: squared norms about the centre, or reciprocals of norms
  float* key_terms;         ///< workspace: [count]
  double* positives;        ///< workspace: [count]: logits of pairs (i, i), formed directly
  float* positive_weights;  ///< workspace: [count]
  float* maxima;            ///< workspace: [segments, count]
  float* sums;              ///< workspace: [segments, count]
  double* row_log_sums;     ///< workspace: [count]
  double* column_log_sums;  ///< workspace: [count]; zero unless the loss is symmetric
  float* row_logs;          ///< workspace: [count]: row_log_sums in float32
  float* row_factors;       ///< workspace: [count]: (1 + 2 · penalty · row_log_sums) / count
  float* column_logs;       ///< workspace: [count]
  float* query_weights;     ///< workspace: [segments, count]: sums of weights
  float* key_weights;       ///< workspace: [segments, count]
  float* query_sums;        ///< workspace: [segments - 1, count, dimension]
  float* key_sums;          ///< workspace: [segments - 1, count, dimension]
  int32_t count;
  int32_t dimension;
  int32_t similarity;  ///< Similarity
  int32_t is_symmetric;
  int32_t excludes_positives;
  int32_t segments;
  float scale;  ///< 1 / temperature
  float distance_offset;
  double penalty;
};

}  // namespace auxcore::info_nce
