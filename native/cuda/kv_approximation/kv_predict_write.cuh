// What kv_predict_write.cpp and kv_predict_write.cu both know.
#pragma once

#include "kv_head_types.cuh"

namespace auxcore::kv_predict_write {

constexpr int kLayers = 12;  ///< in one launch: the table is a parameter of the kernel, of 4 KB at most

struct Layer {
  kv::Cache cache;
  kv::TokenRows keys;
  kv::TokenRows values;
  int64_t first_block;
};

struct Arguments {
  kv::Tokens tokens;
  int32_t layer_count;
  Layer layers[kLayers];
};
static_assert(sizeof(Arguments) <= 4096);

}  // namespace auxcore::kv_predict_write
