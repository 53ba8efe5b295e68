// TabularTd on CUDA. The formula is in src/Kernels/SuccessorMeasure/TabularTd.cs.
//
// Every column of the table is on its own: a thread takes one column through all transitions in their order. So a batch equals the loop
// over its transitions, duplicates and all, without sorting and in one launch; threads of a warp read the same transition and neighbouring
// columns. Where the columns of a block fit, they are worked on in shared memory: consecutive transitions wait for each other's results.
#include "tabular_td.cuh"

#include "td_device.cuh"

namespace auxcore::tabular_td {
namespace {

/// Row r of a thread's column is at table[r * step].
__device__ __forceinline__ void update_column(
    const Arguments& arguments, float* table, const float* read, int64_t step, int32_t column, int lane) {
  for (int32_t from = 0; from < arguments.transitions; from += td::kWarp) {
    // A transition a lane, and then from lane to lane: one access for 32 of them.
    const int32_t mine = from + lane;
    const bool exists = mine < arguments.transitions;
    const int my_state = exists ? arguments.current[mine] : 0;
    const int my_next = exists ? arguments.next[mine] : 0;
    const int my_end = exists ? arguments.done[mine] : 0;
    const int count = arguments.transitions - from < td::kWarp ? arguments.transitions - from : td::kWarp;
    for (int i = 0; i < count; ++i) {
      const int state = __shfl_sync(0xffffffffu, my_state, i), next = __shfl_sync(0xffffffffu, my_next, i);
      const bool ended = __shfl_sync(0xffffffffu, my_end, i) != 0;
      if (column >= arguments.states || unsigned(state) >= unsigned(arguments.states))
        continue;
      float target = (arguments.counts_next ? next : state) == column ? arguments.height : 0.0f;
      if (unsigned(next) >= unsigned(arguments.states))
        target = td::nan();
      else if (!ended)
        target = fmaf(arguments.discount, read[next * step], target);
      const float old = table[state * step];
      table[state * step] = fmaf(arguments.step_size, target - old, old);
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) auxcore_tabular_td_global(Arguments arguments) {
  const int lane = int(threadIdx.x);
  const int64_t column = int64_t{blockIdx.x} * kThreads + lane;
  update_column(
      arguments, arguments.measure + column, arguments.snapshot + column, arguments.states, int32_t(column), lane);
}
AUXCORE_KERNEL(auxcore_tabular_td_global)

/// Dynamic shared memory: states · 32 floats, and twice that where a snapshot is read.
extern "C" __global__ void __launch_bounds__(kThreads) auxcore_tabular_td_shared(Arguments arguments, int32_t takes_snapshot) {
  AUXCORE_DYNAMIC_SHARED(float, memory);
  const int lane = int(threadIdx.x);
  const int64_t column = int64_t{blockIdx.x} * kThreads + lane;
  float* const table = memory + lane;
  float* const snapshot = takes_snapshot ? table + arguments.states * kThreads : table;
  for (int32_t row = 0; row < arguments.states && column < arguments.states; ++row)
    snapshot[row * kThreads] = table[row * kThreads] = arguments.measure[int64_t{row} * arguments.states + column];
  update_column(arguments, table, snapshot, kThreads, int32_t(column), lane);
  for (int32_t row = 0; row < arguments.states && column < arguments.states; ++row)
    arguments.measure[int64_t{row} * arguments.states + column] = table[row * kThreads];
}
AUXCORE_KERNEL(auxcore_tabular_td_shared)

/// *first = the first place whose index is not within [0, limit); count if there is none. One block.
extern "C" __global__ void __launch_bounds__(kIndexThreads)
    auxcore_first_bad_index(const int32_t* indices, int32_t count, int32_t limit, int32_t* first) {
  AUXCORE_SHARED(int32_t, places, kIndexThreads);
  int32_t place = count;
  for (int32_t i = int32_t(threadIdx.x); i < count; i += kIndexThreads)
    if (unsigned(indices[i]) >= unsigned(limit) && i < place)
      place = i;
  places[threadIdx.x] = place;
  __syncthreads();
  if (threadIdx.x != 0)
    return;
  for (int i = 1; i < kIndexThreads; ++i)
    place = places[i] < place ? places[i] : place;
  *first = place;
}
AUXCORE_KERNEL(auxcore_first_bad_index)

}  // namespace auxcore::tabular_td
