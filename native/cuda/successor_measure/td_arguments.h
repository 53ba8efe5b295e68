// Checks that the TD ops share.
#pragma once

#include "../library/arguments.h"

namespace auxcore::td {

void check_discount(double discount);

/// What a state counts each time that it is met, formed in double: 1, or 1 - discount.
inline float height_of(double discount, uint32_t normalised) { return static_cast<float>(normalised != 0 ? 1 - discount : 1.0); }

/// Adds the features or bits of a batch, and thresholds, to the memory of a call.
void add_sets(Memory& memory, auxcore_dtype type, uint64_t features, uint64_t thresholds, int64_t rows, int64_t tasks);

/// *mean = the mean of values: the kernel of indicator_td.cu.
void launch_mean(Context& context, CUstream stream, uint64_t values, int32_t count, uint64_t mean);

}  // namespace auxcore::td
