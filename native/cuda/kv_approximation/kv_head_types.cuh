// What the host and the device code of the ops that write heads into a KV cache both know: KvAppend and KvPredictWrite.
#pragma once

#include "kv_types.cuh"

namespace auxcore::kv {

constexpr int kHeadWarps = 8;  ///< of a block, which has some heads of one token, a warp each
constexpr int kHeadThreads = kHeadWarps * kWarp;
constexpr int kMostPairs = kMostHeadDim / 2;

/// auxcore_dtype, as far as these kernels have it.
enum ElementType : int32_t { kFloat32 = 0, kFloat16 = 2, kBFloat16 = 3 };

/// The heads of some tokens.
struct TokenRows {
  uint64_t first;
  int64_t step;       ///< bytes from one token to the next
  const float* bias;  ///< null where there is none
  const float* norm;  ///< null where there is none
};

/// Where tokens go, and what all of their heads have in common.
struct Tokens {
  const int32_t* sequences;  ///< null where there are as many of each
  const int32_t* slots;
  const int32_t* positions;
  double norm_epsilon;
  int32_t count;
  int32_t type;
  int32_t slots_are_of_heads;
  int32_t pairs;
  int32_t is_in_pairs;
  double frequencies[kMostPairs];
};

/// Blocks that all heads of a token take. For the host.
constexpr int64_t blocks_of_token(int64_t heads) { return (heads + kHeadWarps - 1) / kHeadWarps; }

}  // namespace auxcore::kv
