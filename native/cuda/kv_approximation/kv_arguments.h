// Checks that the KV cache's ops share.
#pragma once

#include <initializer_list>

#include "../library/arguments.h"
#include "kv_types.cuh"

namespace auxcore::kv {

static_assert(int{kF32} == AUXCORE_KV_F32 && int{kF16} == AUXCORE_KV_F16 && int{kBF16} == AUXCORE_KV_BF16 &&
              int{kE4M3} == AUXCORE_KV_E4M3 && int{kQ8} == AUXCORE_KV_Q8_0 &&
              int{kQ4} == AUXCORE_KV_Q4_0 && int{kKivi} == AUXCORE_KV_KIVI4);

constexpr int kVector = 8;  ///< elements of a head that kernels take at a time

/// Refuses what is no format.
void check_format(const char* name, int32_t format);

/// The product, none of whose factors is negative; throws where it exceeds 64 bits.
int64_t product(const char* name, std::initializer_list<int64_t> factors);

/// The sum, likewise.
int64_t sum(const char* name, int64_t a, int64_t b);

/// The bytes of elements, a multiple of the format's groups.
int64_t bytes_of(const char* name, int32_t format, int64_t elements);

/// Refuses sizes, formats and steps that no cache has; and KIVI-4, where an op takes only rows that stand for themselves.
void check_cache(const auxcore_kv_cache& cache, bool takes_residual = false);

/// The rest of the checks of a cache that is read, or written: its memory, which is added to that of the call.
Cache cache_of(const auxcore_kv_cache& cache, bool is_written, Memory& memory, const Context& context);

/// Stretches of memory, each as far from the next.
struct Stretches {
  uint64_t first;
  int64_t step, count, bytes;
};

/// What a plane of a cache, which was checked, occupies.
Stretches stretches_of(const char* name, const auxcore_kv_cache& cache, const auxcore_kv_plane& plane);

/// Whether a byte may be of both: never where both have one step, and each lies between the stretches of the other.
bool may_overlap(const Stretches& a, const Stretches& b);

}  // namespace auxcore::kv
