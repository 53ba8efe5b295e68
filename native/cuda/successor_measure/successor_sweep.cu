// SuccessorSweep on CUDA: M <- E + discount · P · M. The definitions are in src/Kernels/SuccessorMeasure/SuccessorSweep.cs.
//
// In Jacobi order a block takes one row and 128 columns of it. In Gauss and Seidel's order rows wait for each other and columns do not: a
// thread takes its column through all rows. What a caller put into P is not trusted: offsets are held within the entries, and a state out
// of range gives NaN.
#include "successor_sweep.cuh"

#include "td_device.cuh"

namespace auxcore::successor_sweep {
namespace {

// The operations of src/Kernels/SuccessorMeasure/SuccessorSweep.Cpu.cs in their order: the sum over the row's entries from zero, times the
// discount, then E.
__device__ __forceinline__ float swept(const Arguments& arguments, const float* read, int32_t row, int32_t column) {
  const int32_t from = arguments.row_offsets[row] < 0 ? 0 : arguments.row_offsets[row];
  const int32_t end = arguments.row_offsets[row + 1] < arguments.entries ? arguments.row_offsets[row + 1] : arguments.entries;
  float sum = 0;
  for (int32_t k = from; k < end; ++k) {
    const int32_t state = arguments.columns[k];
    const bool exists = unsigned(state) < unsigned(arguments.states);
    sum = fmaf(arguments.values[k], exists ? read[int64_t{state} * arguments.states + column] : td::nan(), sum);
  }
  float result = td::product(sum, arguments.discount);
  if (!arguments.counts_next)
    return row == column ? result + arguments.height : result;
  for (int32_t k = from; k < end; ++k)
    if (arguments.columns[k] == column)
      result = result + td::product(arguments.height, arguments.values[k]);
  return result;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
    auxcore_successor_sweep_rows(Arguments arguments, const float* read, float* write) {
  const unsigned blocks = (unsigned(arguments.states) + kThreads - 1) / kThreads;  // of a row
  const int32_t row = int32_t(blockIdx.x / blocks);
  const int64_t column = int64_t{blockIdx.x % blocks} * kThreads + threadIdx.x;
  if (column < arguments.states)
    write[int64_t{row} * arguments.states + column] = swept(arguments, read, row, int32_t(column));
}
AUXCORE_KERNEL(auxcore_successor_sweep_rows)

extern "C" __global__ void __launch_bounds__(kColumnThreads) auxcore_successor_sweep_columns(Arguments arguments, float* measure) {
  const int64_t column = int64_t{blockIdx.x} * kColumnThreads + threadIdx.x;
  for (int32_t row = 0; row < arguments.states && column < arguments.states; ++row)
    measure[int64_t{row} * arguments.states + column] = swept(arguments, measure, row, int32_t(column));
}
AUXCORE_KERNEL(auxcore_successor_sweep_columns)

/// changes[column] = the largest |now - before| in it; NaN where one is there.
extern "C" __global__ void __launch_bounds__(kChangeThreads)
    auxcore_successor_sweep_changes(const float* now, const float* before, int32_t states, float* changes) {
  AUXCORE_SHARED(float, parts, kChangeThreads);
  constexpr int kStep = kChangeThreads / td::kColumns;
  const int own = int(threadIdx.x) % td::kColumns, part = int(threadIdx.x) / td::kColumns;
  const int64_t column = int64_t{blockIdx.x} * td::kColumns + own;
  float largest = 0;
  for (int32_t row = part; row < states && column < states; row += kStep) {
    const float change = fabsf(now[int64_t{row} * states + column] - before[int64_t{row} * states + column]);
    largest = change <= largest ? largest : change;  // a NaN is taken,
    if (largest != largest)
      break;  // and kept
  }
  parts[threadIdx.x] = largest;
  __syncthreads();
  if (part != 0 || column >= states)
    return;
  for (int i = 1; i < kStep && largest == largest; ++i) {
    const float other = parts[i * td::kColumns + own];
    largest = other <= largest ? largest : other;
  }
  changes[column] = largest;
}
AUXCORE_KERNEL(auxcore_successor_sweep_changes)

}  // namespace auxcore::successor_sweep
