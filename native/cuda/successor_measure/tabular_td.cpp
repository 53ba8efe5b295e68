// TabularTd: checks and launches. The formula is in TabularTd.cs, the kernels in tabular_td.cu.
#include "tabular_td.cuh"

#include <limits>

#include "td_arguments.h"

namespace auxcore::tabular_td {
namespace {

constexpr const char* kOp = "TabularTd";

AUXCORE_DECLARE_IMAGE(successor_measure);
const Kernel kGlobal{kOp, &image_successor_measure, "auxcore_tabular_td_global"};
const Kernel kShared{kOp, &image_successor_measure, "auxcore_tabular_td_shared"};
const Kernel kFirstBadIndex{"the check of indices", &image_successor_measure, "auxcore_first_bad_index"};

void check(const auxcore_tabular_td_batch& batch, const Context& context) {
  check_at_least_one("batch->states", batch.states);
  if (batch.transitions < 0)
    fail(AUXCORE_E_ARGUMENT, "batch->transitions is %d", batch.transitions);
  check_flag("batch->counts_next", batch.counts_next);
  check_flag("batch->normalised", batch.normalised);
  if (batch.reserved != 0)
    fail(AUXCORE_E_ARGUMENT, "batch->reserved is %u, not 0", batch.reserved);
  if (!(batch.step_size >= 0 && batch.step_size <= 1))  // NaN too
    fail(AUXCORE_E_ARGUMENT, "step_size is %g, not within [0, 1]", batch.step_size);
  td::check_discount(batch.discount);

  const int64_t elements = int64_t{batch.states} * batch.states;
  Memory memory(context);
  memory.write("measure", batch.measure, elements, 4);
  memory.write_if_wanted("snapshot", batch.snapshot, elements, 4);
  memory.read("current", batch.current, batch.transitions, 4);
  memory.read("next", batch.next, batch.transitions, 4);
  memory.read("done", batch.done, batch.transitions, 1);
  memory.check_disjoint();
}

void run(const auxcore_tabular_td_batch& batch, Context& context, CUstream stream) {
  if (batch.transitions == 0)
    return;
  Arguments arguments = {};
  arguments.measure = pointer<float>(batch.measure);
  arguments.snapshot = pointer<const float>(batch.snapshot != 0 ? batch.snapshot : batch.measure);
  arguments.current = pointer<const int32_t>(batch.current);
  arguments.next = pointer<const int32_t>(batch.next);
  arguments.done = pointer<const uint8_t>(batch.done);
  arguments.states = batch.states;
  arguments.transitions = batch.transitions;
  arguments.counts_next = static_cast<int32_t>(batch.counts_next);
  arguments.step_size = static_cast<float>(batch.step_size);
  arguments.discount = static_cast<float>(batch.discount);
  arguments.height = td::height_of(batch.discount, batch.normalised);

  const unsigned blocks = blocks_for(batch.states, kThreads);
  const int32_t takes_snapshot = batch.snapshot != 0;
  const int64_t shared = int64_t{batch.states} * kThreads * 4 * (1 + takes_snapshot);
  if (shared <= kMostSharedBytes) {
    context.launch(kShared, Grid{blocks, kThreads, static_cast<unsigned>(shared)}, stream, arguments, takes_snapshot);
    return;
  }
  if (batch.snapshot != 0)
    AUXCORE_CUDA(cuMemcpyDtoDAsync_v2, batch.snapshot, batch.measure, static_cast<std::size_t>(batch.states) * batch.states * 4, stream);
  context.launch(kGlobal, Grid{blocks, kThreads}, stream, arguments);
}

int32_t first_bad_index(Context& context, CUstream stream, uint64_t indices, int32_t count, int32_t limit) {
  const CUdeviceptr place = context.allocate(sizeof(int32_t));
  int32_t first = 0;
  FirstFailure failure;
  failure.attempt([&] {
    context.launch(kFirstBadIndex, Grid{1, kIndexThreads}, stream, indices, count, limit, place);
    AUXCORE_CUDA(cuMemcpyDtoHAsync_v2, &first, place, sizeof first, stream);
    AUXCORE_CUDA(cuStreamSynchronize, stream);
  });
  failure.attempt([&] { context.free(place); });
  failure.rethrow();
  return first;
}

}  // namespace
}  // namespace auxcore::tabular_td

using namespace auxcore;

extern "C" {

auxcore_status auxcore_tabular_td(auxcore_context context, void* stream, const auxcore_tabular_td_batch* batch) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (batch == nullptr)
      fail(AUXCORE_E_ARGUMENT, "batch is NULL");
    check_struct_size("batch", batch->struct_size, sizeof *batch);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    tabular_td::check(*batch, *opened);
    tabular_td::run(*batch, *opened, on);
  });
}

auxcore_status auxcore_first_bad_index(
    auxcore_context context, void* stream, uint64_t indices, int32_t count, int32_t limit, int32_t* first) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (first == nullptr)
      fail(AUXCORE_E_ARGUMENT, "first is NULL");
    if (count < 0)
      fail(AUXCORE_E_ARGUMENT, "count is %d", count);
    check_at_least_one("limit", limit);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    Memory memory(*opened);
    memory.read("indices", indices, count, 4);
    if (opened->is_capturing(on))
      fail(AUXCORE_E_ARGUMENT, "the stream is capturing: check indices before the capture");
    *first = count == 0 ? 0 : tabular_td::first_bad_index(*opened, on, indices, count, limit);
  });
}

}  // extern "C"
