// IndicatorCalibration on CUDA: bits, counts, pinball loss and gradient, exact thresholds. The definitions are in
// src/Kernels/SuccessorMeasure/IndicatorCalibration.cs.
//
// Bits: a warp takes a row, and 32 indicators are one ballot. What is summed down the columns is a block for 32 of them, whose rows its
// threads share, in a fixed order. Exact thresholds: a radix select in four passes over eight bits each, with counts in shared memory;
// integers only, so the order in which threads come does not matter.
#include "indicator_calibration.cuh"

#include "td_device.cuh"

namespace auxcore::indicator_calibration {
namespace {

template <class Feature>
__device__ __forceinline__ void pack_row(const Arguments& arguments, int64_t row, int lane) {
  const Feature* features = static_cast<const Feature*>(arguments.features) + row * arguments.tasks;
  const int64_t bytes = (int64_t{arguments.tasks} + 7) / 8;
  uint8_t* bits = arguments.bits + row * bytes;
  for (int32_t from = 0; from < arguments.tasks; from += td::kWarp) {
    const int32_t task = from + lane;
    const bool is_active = task < arguments.tasks && td::load(features + task) + arguments.thresholds[task] > 0;
    const unsigned ballot = __ballot_sync(0xffffffffu, is_active);
    const int64_t byte = from / 8 + lane;
    if (lane < td::kWarp / 8 && byte < bytes)
      bits[byte] = uint8_t(ballot >> 8 * lane);
  }
}

struct ColumnSums {
  double loss = 0;
  int32_t active = 0, negative = 0;
  int32_t nans = 0;
};

template <class Feature>
__device__ __forceinline__ ColumnSums column_sums(const Arguments& arguments, int64_t task, int32_t first, int32_t step) {
  const Feature* features = static_cast<const Feature*>(arguments.features) + task;
  const float threshold = arguments.thresholds[task], above = float(1 - arguments.rate), below = float(-arguments.rate);
  ColumnSums sums;
  for (int32_t row = first; row < arguments.rows; row += step) {
    const float x = td::load(features + int64_t{row} * arguments.tasks) + threshold;
    sums.loss += x * (x > 0 ? above : below);
    sums.active += x > 0;
    sums.negative += x < 0;
    sums.nans += x != x;
  }
  return sums;
}

/// A number that is greater where the value is: for all but NaN.
__device__ __forceinline__ uint32_t key_of(float value) {
  const uint32_t bits = as_bits(value);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(uint32_t key) { return as_float(key >> 31 != 0 ? key & 0x7fffffffu : ~key); }

constexpr int kBins = 256;

struct Selection {
  uint32_t prefix;     ///< of the wanted value's key, as far as it is known
  uint32_t remaining;  ///< values of that prefix that are above the wanted one
};

/// Counts the values of a column by the eight bits above `shift`, of those that have the prefix; in the first pass NaNs too.
template <class Feature>
__device__ __forceinline__ void count_bins(
    const Arguments& arguments, int64_t task, int column, int32_t first, int32_t step, uint32_t prefix, int shift, unsigned* bins,
    unsigned* nans) {
  const Feature* features = static_cast<const Feature*>(arguments.features) + task;
  const uint32_t known = shift == 24 ? 0 : 0xffffffffu << (shift + 8);
  for (int32_t row = first; row < arguments.rows; row += step) {
    const float value = td::load(features + int64_t{row} * arguments.tasks);
    if (shift == 24 && value != value)
      atomicAdd(nans + column, 1u);
    const uint32_t key = key_of(value);
    if ((key & known) == prefix)
      atomicAdd(bins + (key >> shift & 0xffu) * td::kColumns + column, 1u);
  }
}

template <class Feature>
__device__ __forceinline__ uint32_t count_above(
    const Arguments& arguments, int64_t task, int32_t first, int32_t step, float quantile) {
  const Feature* features = static_cast<const Feature*>(arguments.features) + task;
  uint32_t active = 0;
  for (int32_t row = first; row < arguments.rows; row += step)
    active += td::load(features + int64_t{row} * arguments.tasks) > quantile;
  return active;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_indicator_pack(Arguments arguments) {
  const int warp = int(threadIdx.x) / td::kWarp, lane = int(threadIdx.x) % td::kWarp;
  const int64_t row = int64_t{blockIdx.x} * kRows + warp;
  if (row >= arguments.rows)
    return;
  if (arguments.type == td::kFloat32)
    pack_row<float>(arguments, row, lane);
  else
    pack_row<bfloat16>(arguments, row, lane);
}
AUXCORE_KERNEL(auxcore_indicator_pack)

/// Counts; and where a rate is given, the pinball loss, its gradient, and the step.
extern "C" __global__ void __launch_bounds__(kColumnThreads) auxcore_indicator_columns(Arguments arguments) {
  AUXCORE_SHARED(double, losses, kColumnThreads);
  AUXCORE_SHARED(int32_t, actives, kColumnThreads);
  AUXCORE_SHARED(int32_t, negatives, kColumnThreads);
  AUXCORE_SHARED(int32_t, nans, kColumnThreads);
  constexpr int kStep = kColumnThreads / td::kColumns;
  const int column = int(threadIdx.x) % td::kColumns, part = int(threadIdx.x) / td::kColumns;
  const int64_t task = int64_t{blockIdx.x} * td::kColumns + column;
  ColumnSums own;
  if (task < arguments.tasks)
    own = arguments.type == td::kFloat32 ? column_sums<float>(arguments, task, part, kStep)
                                         : column_sums<bfloat16>(arguments, task, part, kStep);
  losses[threadIdx.x] = own.loss;
  actives[threadIdx.x] = own.active;
  negatives[threadIdx.x] = own.negative;
  nans[threadIdx.x] = own.nans;
  __syncthreads();
  if (part != 0 || task >= arguments.tasks)
    return;
  ColumnSums sums;
  for (int i = 0; i < kStep; ++i) {
    sums.loss += losses[i * td::kColumns + column];
    sums.active += actives[i * td::kColumns + column];
    sums.negative += negatives[i * td::kColumns + column];
    sums.nans += nans[i * td::kColumns + column];
  }
  if (arguments.active_counts != nullptr)
    arguments.active_counts[task] = sums.nans > 0 ? -1 : sums.active;
  if (arguments.rate == 0)
    return;
  if (arguments.task_losses != nullptr)
    arguments.task_losses[task] = sums.loss / arguments.rows;
  const double share = sums.negative / double(arguments.rows);
  const float gradient = sums.nans > 0 ? td::nan() : float((1 - arguments.rate - share) / arguments.tasks);
  if (arguments.gradient != nullptr)
    arguments.gradient[task] = gradient;
  if (arguments.learning_rate != 0) {
    const double move = arguments.learning_rate * double(gradient);  // float and double as the other backends have them
    arguments.thresholds[task] = float(double(arguments.thresholds[task]) - move);
  }
}
AUXCORE_KERNEL(auxcore_indicator_columns)

extern "C" __global__ void __launch_bounds__(kSelectThreads) auxcore_indicator_select(Arguments arguments) {
  AUXCORE_SHARED(unsigned, bins, kBins * td::kColumns);
  AUXCORE_SHARED(Selection, selections, td::kColumns);
  AUXCORE_SHARED(unsigned, nans, td::kColumns);
  AUXCORE_SHARED(unsigned, actives, td::kColumns);
  constexpr int kStep = kSelectThreads / td::kColumns;
  const int column = int(threadIdx.x) % td::kColumns, part = int(threadIdx.x) / td::kColumns;
  const int64_t task = int64_t{blockIdx.x} * td::kColumns + column;
  const bool exists = task < arguments.tasks;
  if (part == 0) {
    selections[column] = {0, uint32_t(arguments.wanted)};
    nans[column] = actives[column] = 0;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = int(threadIdx.x); i < kBins * td::kColumns; i += kSelectThreads)
      bins[i] = 0;
    __syncthreads();
    if (exists && arguments.type == td::kFloat32)
      count_bins<float>(arguments, task, column, part, kStep, selections[column].prefix, shift, bins, nans);
    else if (exists)
      count_bins<bfloat16>(arguments, task, column, part, kStep, selections[column].prefix, shift, bins, nans);
    __syncthreads();
    if (part == 0 && exists) {
      Selection selection = selections[column];
      for (int bin = kBins - 1; bin >= 0; --bin) {
        const unsigned here = bins[bin * td::kColumns + column];
        if (selection.remaining < here) {
          selection.prefix |= uint32_t(bin) << shift;
          break;
        }
        selection.remaining -= here;
      }
      selections[column] = selection;
    }
    __syncthreads();
  }

  const float quantile = value_of(selections[column].prefix);
  const bool has_threshold = nans[column] == 0 && fabsf(quantile) < as_float(0x7f800000u);
  if (exists && has_threshold) {
    const uint32_t own = arguments.type == td::kFloat32 ? count_above<float>(arguments, task, part, kStep, quantile)
                                                        : count_above<bfloat16>(arguments, task, part, kStep, quantile);
    atomicAdd(actives + column, own);
  }
  __syncthreads();
  if (part != 0 || !exists)
    return;
  arguments.thresholds[task] = has_threshold ? 0.0f - quantile : td::nan();  // 0 - 0 is +0, whatever the sign of the zero
  if (arguments.active_counts != nullptr)
    arguments.active_counts[task] = has_threshold ? int32_t(actives[column]) : -1;
}
AUXCORE_KERNEL(auxcore_indicator_select)

}  // namespace auxcore::indicator_calibration
