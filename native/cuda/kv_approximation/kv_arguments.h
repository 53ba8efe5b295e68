// Checks that the KV cache's ops share.
#pragma once

#include "../successor_measure/pair_arguments.h"
#include "../successor_measure/td_arguments.h"
#include "kv_types.cuh"

namespace auxcore::kv {

static_assert(int{kF32} == AUXCORE_KV_F32 && int{kF16} == AUXCORE_KV_F16 && int{kBF16} == AUXCORE_KV_BF16 &&
              int{kE4M3} == AUXCORE_KV_E4M3 && int{kQ8} == AUXCORE_KV_Q8_0 && int{kQ4} == AUXCORE_KV_Q4_0);

/// Refuses what is no format.
void check_format(const char* name, int32_t format);

/// The product, none of whose factors is negative; throws where it exceeds 64 bits.
int64_t product(const char* name, std::initializer_list<int64_t> factors);

/// The bytes of elements, a multiple of the format's groups.
int64_t bytes_of(const char* name, int32_t format, int64_t elements);

}  // namespace auxcore::kv
