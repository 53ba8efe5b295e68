// What KvPredictWrite takes from KvAppend: a layer of it is a call without queries.
#pragma once

#include "kv_arguments.h"
#include "kv_head_types.cuh"

namespace auxcore::kv_append {

/// Refuses numbers that no call has.
void check_numbers(const auxcore_kv_cache& cache, const auxcore_kv_append& given);

/// Refuses memory that is not the device's, or that is shared where it must not be. The cache as kernels take it.
kv::Cache check_memory(const auxcore_kv_cache& cache, const auxcore_kv_append& given, const Context& context);

/// Blocks of the launch that stores what leaves the windows of a cache in KIVI-4; 0 for other caches.
unsigned leaving_blocks(const kv::Cache& cache, int32_t tokens);

/// That launch, before the one that puts tokens into the ring.
void store_leaving(const kv::Cache& cache, const auxcore_kv_append& given, Context& context, CUstream stream);

kv::TokenRows rows_of(const auxcore_kv_rows& given);
kv::Tokens tokens_of(const auxcore_kv_append& given);

}  // namespace auxcore::kv_append
