// What KvPredictWrite takes from KvAppend: a layer of it is a call without queries.
#pragma once

#include "kv_arguments.h"
#include "kv_head_types.cuh"

namespace auxcore::kv_append {

/// Refuses numbers that no call has.
void check_numbers(const auxcore_kv_cache& cache, const auxcore_kv_append& given);

/// Refuses memory that is not the device's, or that is shared where it must not be. The cache as kernels take it.
kv::Cache check_memory(const auxcore_kv_cache& cache, const auxcore_kv_append& given, const Context& context);

kv::TokenRows rows_of(const auxcore_kv_rows& given);
kv::Tokens tokens_of(const auxcore_kv_append& given);

}  // namespace auxcore::kv_append
