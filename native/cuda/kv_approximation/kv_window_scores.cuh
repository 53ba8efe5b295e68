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

constexpr int kProductThreads = 256;
constexpr int kTileKeys = 64, kTileRows = 64;  ///< of a block of products
constexpr int kRowsOfBlock = 8;  ///< whose shares a block finds, a warp each

/// Of a row's weights of a tile of keys: first their greatest logit, later the row's share of each.
struct TilePart {
  float greatest, sum;
};

struct ProductArguments {
  const float* queries;  ///< [heads, rows, depth]
  const float* keys;     ///< [heads, positions, depth], with steps
  float* scores;         ///< [heads, positions]
  float* weights;        ///< workspace: [heads, rows, positions]
  TilePart* parts;       ///< workspace: [heads, rows, key_tiles]
  int64_t key_step;      ///< elements from one key to the next
  int64_t head_step;
  float factor;          ///< the scale, times log2 e
  int32_t heads;
  int32_t rows;          ///< of a head: group · window
  int32_t window;
  int32_t positions;
  int32_t depth;
  int32_t causal;
  int32_t key_tiles;     ///< of a head
};

}  // namespace auxcore::kv_window_scores
