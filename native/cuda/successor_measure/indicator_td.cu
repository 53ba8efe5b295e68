// IndicatorTd on CUDA: indicator, target, error, loss and gradient of a batch. The formulas are in
// src/Kernels/SuccessorMeasure/IndicatorTd.cs.
//
// A warp takes a row, so a row's loss is one tree of sums and needs no atomics: same input, same bits. Bytes: 4 or 2 each of predictions,
// next values and features, and 4 of the gradient, for 6 operations.
#include "indicator_td.cuh"

#include "td_device.cuh"

namespace auxcore::indicator_td {
namespace {

// The operations of src/Kernels/SuccessorMeasure/IndicatorTd.Cpu.cs in their order, so gradients have the same bits.
template <class Value, class Indicator>
__device__ __forceinline__ float error_at(
    const Arguments& arguments, const Indicator& indicator, int64_t at, int32_t task, bool has_next) {
  const float reward = indicator(task) * arguments.height;
  const float target =
      has_next ? fmaf(arguments.discount, td::load(static_cast<const Value*>(arguments.next_values) + at), reward) : reward;
  return td::load(static_cast<const Value*>(arguments.prediction) + at) - target;
}

template <class Value, class Indicator>
__device__ __forceinline__ double row_errors(const Arguments& arguments, int64_t row, int lane) {
  const Indicator indicator(arguments.sets, row, arguments.tasks);
  const bool has_next = arguments.done[row] == 0;
  double squares = 0;
#pragma unroll 4
  for (int32_t task = lane; task < arguments.tasks; task += td::kWarp) {
    const int64_t at = row * arguments.tasks + task;
    const float error = error_at<Value>(arguments, indicator, at, task, has_next);
    squares += double(error) * double(error);
    if (arguments.gradient != nullptr)
      arguments.gradient[at] = error * arguments.scale;
  }
  return squares;
}

struct RowBody {
  const Arguments& arguments;
  int64_t row;
  int lane;

  template <class Indicator>
  __device__ __forceinline__ double operator()() const {
    return arguments.value_type == td::kFloat32 ? row_errors<float, Indicator>(arguments, row, lane)
                                                : row_errors<bfloat16, Indicator>(arguments, row, lane);
  }
};

struct ColumnSums {
  double magnitude = 0;
  float active = 0;  // NaN where one was met; counts are exact up to 2^24 rows a thread
};

template <class Value, class Indicator>
__device__ __forceinline__ ColumnSums column_sums(const Arguments& arguments, int32_t task, int32_t first, int32_t step) {
  ColumnSums sums;
  for (int32_t row = first; row < arguments.rows; row += step) {
    const Indicator indicator(arguments.sets, row, arguments.tasks);
    sums.active += indicator(task);
    const int64_t at = int64_t{row} * arguments.tasks + task;
    sums.magnitude += fabsf(error_at<Value>(arguments, indicator, at, task, arguments.done[row] == 0));
  }
  return sums;
}

struct ColumnBody {
  const Arguments& arguments;
  int32_t task, first, step;

  template <class Indicator>
  __device__ __forceinline__ ColumnSums operator()() const {
    return arguments.value_type == td::kFloat32 ? column_sums<float, Indicator>(arguments, task, first, step)
                                                : column_sums<bfloat16, Indicator>(arguments, task, first, step);
  }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_indicator_td_rows(Arguments arguments) {
  AUXCORE_SHARED(double, scratch, kThreads);
  const int warp = int(threadIdx.x) / td::kWarp, lane = int(threadIdx.x) % td::kWarp;
  const int64_t row = int64_t{blockIdx.x} * kRows + warp;
  if (row >= arguments.rows)
    return;
  const double squares = td::with_indicators(arguments.sets.type, RowBody{arguments, row, lane});
  if (arguments.row_losses == nullptr)
    return;
  const double sum = td::warp_sum(squares, scratch + warp * td::kWarp, lane);
  if (lane == 0)
    arguments.row_losses[row] = sum * arguments.row_share;
}
AUXCORE_KERNEL(auxcore_indicator_td_rows)

/// Counts and mean errors, by column.
extern "C" __global__ void __launch_bounds__(kColumnThreads) auxcore_indicator_td_columns(Arguments arguments) {
  AUXCORE_SHARED(double, magnitudes, kColumnThreads);
  AUXCORE_SHARED(float, actives, kColumnThreads);
  constexpr int kStep = kColumnThreads / td::kColumns;
  const int column = int(threadIdx.x) % td::kColumns, part = int(threadIdx.x) / td::kColumns;
  const int64_t task = int64_t{blockIdx.x} * td::kColumns + column;
  ColumnSums sums;
  if (task < arguments.tasks)
    sums = td::with_indicators(arguments.sets.type, ColumnBody{arguments, int32_t(task), part, kStep});
  magnitudes[threadIdx.x] = sums.magnitude;
  actives[threadIdx.x] = sums.active;
  __syncthreads();
  if (part != 0 || task >= arguments.tasks)
    return;
  double magnitude = 0, active = 0;
  for (int i = 0; i < kStep; ++i) {
    magnitude += magnitudes[i * td::kColumns + column];
    active += actives[i * td::kColumns + column];
  }
  if (arguments.active_counts != nullptr)
    arguments.active_counts[task] = active != active ? -1 : int32_t(active);
  if (arguments.mean_absolute_errors != nullptr)
    arguments.mean_absolute_errors[task] = float(magnitude / arguments.rows);
}
AUXCORE_KERNEL(auxcore_indicator_td_columns)

/// *mean = the mean of count values, in one block.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_mean_of_doubles(const double* values, int32_t count, double* mean) {
  AUXCORE_SHARED(double, scratch, kThreads);
  AUXCORE_SHARED(double, sums, td::kWarp);
  const int warp = int(threadIdx.x) / td::kWarp, lane = int(threadIdx.x) % td::kWarp;
  double sum = 0;
  for (int32_t i = int32_t(threadIdx.x); i < count; i += kThreads)
    sum += values[i];
  const double own = td::warp_sum(sum, scratch + warp * td::kWarp, lane);
  if (lane == 0)
    sums[warp] = own;
  __syncthreads();
  if (threadIdx.x != 0)
    return;
  double total = 0;
  for (int i = 0; i < kThreads / td::kWarp; ++i)
    total += sums[i];
  *mean = total / count;
}
AUXCORE_KERNEL(auxcore_mean_of_doubles)

}  // namespace auxcore::indicator_td
