// SuccessorSweep: checks and launches. The definitions are in SuccessorSweep.cs, the kernels in successor_sweep.cu.
#include "successor_sweep.cuh"

#include "td_arguments.h"

namespace auxcore::successor_sweep {
namespace {

constexpr const char* kOp = "SuccessorSweep";

AUXCORE_DECLARE_IMAGE(successor_measure);
const Kernel kRows{kOp, &image_successor_measure, "auxcore_successor_sweep_rows"};
const Kernel kColumns{kOp, &image_successor_measure, "auxcore_successor_sweep_columns"};
const Kernel kChanges{kOp, &image_successor_measure, "auxcore_successor_sweep_changes"};

void check(const auxcore_sweep& sweep, const Context& context) {
  check_at_least_one("sweep->states", sweep.states);
  check_at_least_one("sweep->sweeps", sweep.sweeps);
  if (sweep.entries < 0)
    fail(AUXCORE_E_ARGUMENT, "sweep->entries is %d", sweep.entries);
  check_flag("sweep->in_place", sweep.in_place);
  check_flag("sweep->counts_next", sweep.counts_next);
  check_flag("sweep->normalised", sweep.normalised);
  if (sweep.reserved != 0)
    fail(AUXCORE_E_ARGUMENT, "sweep->reserved is %u, not 0", sweep.reserved);
  td::check_discount(sweep.discount);
  if (sweep.scratch == 0 && (sweep.in_place == 0 || sweep.changes != 0))
    fail(AUXCORE_E_ARGUMENT, "scratch is 0, and Jacobi's order and changes need it");

  const int64_t elements = int64_t{sweep.states} * sweep.states;
  Memory memory(context);
  memory.read("row_offsets", sweep.row_offsets, int64_t{sweep.states} + 1, 4);
  memory.read("columns", sweep.columns, sweep.entries, 4);
  memory.read("values", sweep.values, sweep.entries, 4);
  memory.write("measure", sweep.measure, elements, 4);
  memory.write_if_wanted("scratch", sweep.scratch, elements, 4);
  memory.write_if_wanted("changes", sweep.changes, sweep.states, 4);
  memory.check_disjoint();
}

void run(const auxcore_sweep& sweep, Context& context, CUstream stream) {
  const Arguments arguments = {pointer<const int32_t>(sweep.row_offsets), pointer<const int32_t>(sweep.columns),
      pointer<const float>(sweep.values), sweep.states, sweep.entries, static_cast<int32_t>(sweep.counts_next),
      static_cast<float>(sweep.discount), td::height_of(sweep.discount, sweep.normalised)};
  const std::size_t bytes = static_cast<std::size_t>(sweep.states) * sweep.states * sizeof(float);
  const int64_t row_blocks = blocks_for(sweep.states, kThreads);
  const Grid rows{blocks_for(row_blocks * sweep.states, 1), kThreads};
  const Grid columns{blocks_for(sweep.states, kColumnThreads), kColumnThreads};
  uint64_t now = sweep.measure, other = sweep.scratch;
  for (int32_t i = 0; i < sweep.sweeps; ++i) {
    if (sweep.in_place == 0) {
      context.launch(kRows, rows, stream, arguments, now, other);
      std::swap(now, other);
      continue;
    }
    if (i == sweep.sweeps - 1 && sweep.changes != 0)
      AUXCORE_CUDA(cuMemcpyDtoDAsync_v2, other, now, bytes, stream);
    context.launch(kColumns, columns, stream, arguments, now);
  }
  if (sweep.changes != 0)
    context.launch(kChanges, Grid{blocks_for(sweep.states, td::kColumns), kChangeThreads}, stream, now, other, int32_t{sweep.states},
        sweep.changes);
  if (now != sweep.measure)
    AUXCORE_CUDA(cuMemcpyDtoDAsync_v2, sweep.measure, now, bytes, stream);
}

}  // namespace
}  // namespace auxcore::successor_sweep

using namespace auxcore;

extern "C" auxcore_status auxcore_successor_sweep(auxcore_context context, void* stream, const auxcore_sweep* sweep) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (sweep == nullptr)
      fail(AUXCORE_E_ARGUMENT, "sweep is NULL");
    check_struct_size("sweep", sweep->struct_size, sizeof *sweep);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    successor_sweep::check(*sweep, *opened);
    successor_sweep::run(*sweep, *opened, on);
  });
}
