// What kv_window_scores.cpp and kv_window_scores.cu both know.
#pragma once

#include <stdint.h>

namespace auxcore::kv_window_scores {

constexpr int kThreads = 256;

/// What makes weights of a row's logits: share · 2^(factor · x - shift).
struct RowSoftmax {
  float shift, share;
};

struct Arguments {
  const float* logits;  ///< [heads, rows, positions]
  float* scores;        ///< [heads, positions]
  RowSoftmax* softmaxes;  ///< workspace: [heads, rows]
  float factor;           ///< the scale, times log2 e
  int32_t rows;           ///< of a head: group · window
  int32_t window;
  int32_t positions;
  int32_t causal;
};

}  // namespace auxcore::kv_window_scores
