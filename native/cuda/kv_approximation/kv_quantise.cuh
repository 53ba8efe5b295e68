// What kv_quantise.cpp and kv_quantise.cu both know.
#pragma once

#include "kv_types.cuh"

namespace auxcore::kv_quantise {

constexpr int kThreads = 256;  ///< of a block
constexpr int kTile = 4096;    ///< elements of a block: 128 groups, whose bytes are a multiple of 16 in every format

struct Arguments {
  uint64_t elements;
  uint64_t stored;
  int64_t count;
  float scale;
  int32_t is_aligned;  ///< elements to 16 bytes, and stored to the bytes of four elements, or, of groups, to 16
};

}  // namespace auxcore::kv_quantise
