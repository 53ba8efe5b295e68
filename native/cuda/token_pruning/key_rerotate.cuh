// What key_rerotate.cpp and key_rerotate.cu both know.
#pragma once

#include "token_types.cuh"

namespace auxcore::key_rerotate {

constexpr int kThreads = 256;
constexpr int kPairs = 128;  ///< of a head that are rotated, at most
constexpr int kLayers = 48;  ///< in one launch: they are a parameter of the kernel, of 4 KB at most

/// The keys of one layer. Steps are in elements.
struct Layer {
  void* keys;
  int64_t batch_step, head_step, token_step;
  int32_t type, batch, heads, reserved;
};

struct Arguments {
  const int32_t* differences;  ///< [rows, tokens]
  int32_t tokens, pairs, rows, layer_count;
  int32_t slices;    ///< of the layers: blocks of the same tokens and pairs
  int32_t is_pairs;  ///< 1: elements 2 i and 2 i + 1 are turned together; 0: i and i + pairs
  double frequencies[kPairs];
  uint8_t row_of[kPairs];
  Layer layers[kLayers];
};
static_assert(sizeof(Arguments) <= 4096);

}  // namespace auxcore::key_rerotate
