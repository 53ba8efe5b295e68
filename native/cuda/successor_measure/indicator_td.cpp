// IndicatorTd: checks and launches. The formulas are in IndicatorTd.cs, the kernels in indicator_td.cu.
#include "indicator_td.cuh"

#include "td_arguments.h"

namespace auxcore::indicator_td {
namespace {

constexpr const char* kOp = "IndicatorTd";

AUXCORE_DECLARE_IMAGE(successor_measure);
const Kernel kRowsKernel{kOp, &image_successor_measure, "auxcore_indicator_td_rows"};
const Kernel kColumnsKernel{kOp, &image_successor_measure, "auxcore_indicator_td_columns"};
const Kernel kMeanKernel{kOp, &image_successor_measure, "auxcore_mean_of_doubles"};

static_assert(int{td::kFloat32} == AUXCORE_FLOAT32 && int{td::kBFloat16} == AUXCORE_BFLOAT16 && int{td::kBits} == AUXCORE_UINT8);

void check(const auxcore_indicator_td_batch& batch, const Context& context) {
  check_at_least_one("batch->rows", batch.rows);
  check_at_least_one("batch->tasks", batch.tasks);
  td::check_discount(batch.discount);
  check_flag("batch->normalised", batch.normalised);
  if (batch.value_type != AUXCORE_FLOAT32 && batch.value_type != AUXCORE_BFLOAT16)
    fail(AUXCORE_E_ARGUMENT, "value_type %d is not float32 or bfloat16", batch.value_type);
  if (batch.loss != 0 && batch.row_losses == 0)
    fail(AUXCORE_E_ARGUMENT, "row_losses is 0, and the loss is summed from them");

  const int64_t elements = int64_t{batch.rows} * batch.tasks;
  const int value_bytes = batch.value_type == AUXCORE_FLOAT32 ? 4 : 2;
  Memory memory(context);
  memory.read("prediction", batch.prediction, elements, value_bytes);
  memory.read("next_values", batch.next_values, elements, value_bytes);
  memory.read("done", batch.done, batch.rows, 1);
  td::add_sets(memory, batch.feature_type, batch.features, batch.thresholds, batch.rows, batch.tasks);
  memory.write_if_wanted("gradient", batch.gradient, elements, 4);
  memory.write_if_wanted("loss", batch.loss, 1, 8);
  memory.write_if_wanted("row_losses", batch.row_losses, batch.rows, 8);
  memory.write_if_wanted("active_counts", batch.active_counts, batch.tasks, 4);
  memory.write_if_wanted("mean_absolute_errors", batch.mean_absolute_errors, batch.tasks, 4);
  memory.check_disjoint();
}

Arguments arguments_of(const auxcore_indicator_td_batch& batch) {
  Arguments arguments = {};
  arguments.prediction = pointer<const void>(batch.prediction);
  arguments.next_values = pointer<const void>(batch.next_values);
  arguments.done = pointer<const uint8_t>(batch.done);
  arguments.sets = {pointer<const void>(batch.features), pointer<const float>(batch.thresholds), batch.feature_type};
  arguments.gradient = pointer<float>(batch.gradient);
  arguments.row_losses = pointer<double>(batch.row_losses);
  arguments.active_counts = pointer<int32_t>(batch.active_counts);
  arguments.mean_absolute_errors = pointer<float>(batch.mean_absolute_errors);
  arguments.rows = batch.rows;
  arguments.tasks = batch.tasks;
  arguments.value_type = batch.value_type;
  arguments.discount = static_cast<float>(batch.discount);
  arguments.height = td::height_of(batch.discount, batch.normalised);
  arguments.scale = static_cast<float>(1 / (batch.rows * static_cast<double>(batch.tasks)));
  arguments.row_share = 0.5 / batch.tasks;
  return arguments;
}

}  // namespace
}  // namespace auxcore::indicator_td

namespace auxcore::td {

void launch_mean(Context& context, CUstream stream, uint64_t values, int32_t count, uint64_t mean) {
  context.launch(indicator_td::kMeanKernel, Grid{1, indicator_td::kThreads}, stream, values, count, mean);
}

}  // namespace auxcore::td

using namespace auxcore;

extern "C" auxcore_status auxcore_indicator_td(auxcore_context context, void* stream, const auxcore_indicator_td_batch* batch) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (batch == nullptr)
      fail(AUXCORE_E_ARGUMENT, "batch is NULL");
    check_struct_size("batch", batch->struct_size, sizeof *batch);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    indicator_td::check(*batch, *opened);

    const indicator_td::Arguments arguments = indicator_td::arguments_of(*batch);
    if (batch->gradient != 0 || batch->row_losses != 0)
      opened->launch(
          indicator_td::kRowsKernel, Grid{blocks_for(batch->rows, indicator_td::kRows), indicator_td::kThreads}, on, arguments);
    if (batch->active_counts != 0 || batch->mean_absolute_errors != 0)
      opened->launch(indicator_td::kColumnsKernel, Grid{blocks_for(batch->tasks, td::kColumns), indicator_td::kColumnThreads}, on,
          arguments);
    if (batch->loss != 0)
      td::launch_mean(*opened, on, batch->row_losses, batch->rows, batch->loss);
  });
}
