// What kv_append.cpp and kv_append.cu both know.
#pragma once

#include "kv_head_types.cuh"

namespace auxcore::kv_append {

struct Arguments {
  kv::Cache cache;
  kv::TokenRows query;
  kv::TokenRows keys;
  kv::TokenRows values;
  uint64_t rotated_query;
  int64_t rotated_step;
  int32_t query_heads;
  kv::Tokens tokens;
};

}  // namespace auxcore::kv_append
