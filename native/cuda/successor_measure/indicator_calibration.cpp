// IndicatorCalibration: checks and launches. The definitions are in IndicatorCalibration.cs, the kernels in indicator_calibration.cu.
#include "indicator_calibration.cuh"

#include <cmath>

#include "td_arguments.h"

namespace auxcore::indicator_calibration {
namespace {

constexpr const char* kOp = "IndicatorCalibration";

AUXCORE_DECLARE_IMAGE(successor_measure);
const Kernel kPack{kOp, &image_successor_measure, "auxcore_indicator_pack"};
const Kernel kColumns{kOp, &image_successor_measure, "auxcore_indicator_columns"};
const Kernel kSelect{kOp, &image_successor_measure, "auxcore_indicator_select"};

enum class Thresholds { kRead, kWritten };

void check(const auxcore_indicator_states& states) {
  check_at_least_one("states->rows", states.rows);
  check_at_least_one("states->tasks", states.tasks);
  if (states.feature_type != AUXCORE_FLOAT32 && states.feature_type != AUXCORE_BFLOAT16)
    fail(AUXCORE_E_ARGUMENT, "feature_type %d is not float32 or bfloat16", states.feature_type);
}

Memory memory_of(const auxcore_indicator_states& states, const Context& context, Thresholds thresholds) {
  Memory memory(context);
  memory.read("features", states.features, int64_t{states.rows} * states.tasks, states.feature_type == AUXCORE_FLOAT32 ? 4 : 2);
  if (thresholds == Thresholds::kRead)
    memory.read("thresholds", states.thresholds, states.tasks, 4);
  else
    memory.write("thresholds", states.thresholds, states.tasks, 4);
  memory.write_if_wanted("active_counts", states.active_counts, states.tasks, 4);
  return memory;
}

int64_t bit_bytes(const auxcore_indicator_states& states) { return states.rows * ((int64_t{states.tasks} + 7) / 8); }

Arguments arguments_of(const auxcore_indicator_states& states) {
  Arguments arguments = {};
  arguments.features = pointer<const void>(states.features);
  arguments.thresholds = pointer<float>(states.thresholds);
  arguments.active_counts = pointer<int32_t>(states.active_counts);
  arguments.rows = states.rows;
  arguments.tasks = states.tasks;
  arguments.type = states.feature_type;
  return arguments;
}

void launch_pack(Context& context, CUstream stream, const Arguments& arguments) {
  context.launch(kPack, Grid{blocks_for(arguments.rows, kRows), kThreads}, stream, arguments);
}

void launch_columns(Context& context, CUstream stream, const Arguments& arguments) {
  context.launch(kColumns, Grid{blocks_for(arguments.tasks, td::kColumns), kColumnThreads}, stream, arguments);
}

/// The common part of the three functions.
template <class Body>
auxcore_status with_states(
    const char* function, auxcore_context context, void* stream, const auxcore_indicator_states* states, Body&& body) noexcept {
  return guarded(function, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (states == nullptr)
      fail(AUXCORE_E_ARGUMENT, "states is NULL");
    check_struct_size("states", states->struct_size, sizeof *states);
    const Context::Scope scope(*opened);
    const CUstream on = static_cast<CUstream>(stream);
    opened->check_stream(on);
    check(*states);
    body(*opened, on);
  });
}

}  // namespace
}  // namespace auxcore::indicator_calibration

using namespace auxcore;
using namespace auxcore::indicator_calibration;

extern "C" {

auxcore_status auxcore_indicator_quantile(
    auxcore_context context, void* stream, const auxcore_indicator_states* states, int32_t wanted) {
  return with_states(__func__, context, stream, states, [&](Context& opened, CUstream on) {
    if (wanted < 1 || wanted >= states->rows)
      fail(AUXCORE_E_ARGUMENT, "wanted is %d, not at least 1 and less than %d rows", wanted, states->rows);
    memory_of(*states, opened, Thresholds::kWritten).check_disjoint();
    Arguments arguments = arguments_of(*states);
    arguments.wanted = wanted;
    opened.launch(kSelect, Grid{blocks_for(states->tasks, td::kColumns), kSelectThreads}, on, arguments);
  });
}

auxcore_status auxcore_indicator_pack(auxcore_context context, void* stream, const auxcore_indicator_states* states, uint64_t bits) {
  return with_states(__func__, context, stream, states, [&](Context& opened, CUstream on) {
    Memory memory = memory_of(*states, opened, Thresholds::kRead);
    memory.write("bits", bits, bit_bytes(*states), 1);
    memory.check_disjoint();
    Arguments arguments = arguments_of(*states);
    arguments.bits = pointer<uint8_t>(bits);
    launch_pack(opened, on, arguments);
    if (states->active_counts != 0)
      launch_columns(opened, on, arguments);
  });
}

auxcore_status auxcore_indicator_pinball(
    auxcore_context context, void* stream, const auxcore_indicator_states* states, const auxcore_pinball* step) {
  return with_states(__func__, context, stream, states, [&](Context& opened, CUstream on) {
    if (step == nullptr)
      fail(AUXCORE_E_ARGUMENT, "step is NULL");
    check_struct_size("step", step->struct_size, sizeof *step);
    if (step->reserved != 0)
      fail(AUXCORE_E_ARGUMENT, "step->reserved is %u, not 0", step->reserved);
    if (!(step->rate > 0 && step->rate < 1))  // NaN too
      fail(AUXCORE_E_ARGUMENT, "rate is %g, not within (0, 1)", step->rate);
    if (!(step->learning_rate >= 0 && std::isfinite(step->learning_rate)))
      fail(AUXCORE_E_ARGUMENT, "learning_rate is %g, not finite and at least 0", step->learning_rate);
    if (step->loss != 0 && step->task_losses == 0)
      fail(AUXCORE_E_ARGUMENT, "task_losses is 0, and the loss is summed from them");
    Memory memory = memory_of(*states, opened, Thresholds::kWritten);
    memory.write_if_wanted("bits", step->bits, bit_bytes(*states), 1);
    memory.write_if_wanted("gradient", step->gradient, states->tasks, 4);
    memory.write_if_wanted("loss", step->loss, 1, 8);
    memory.write_if_wanted("task_losses", step->task_losses, states->tasks, 8);
    memory.check_disjoint();

    Arguments arguments = arguments_of(*states);
    arguments.bits = pointer<uint8_t>(step->bits);
    arguments.gradient = pointer<float>(step->gradient);
    arguments.task_losses = pointer<double>(step->task_losses);
    arguments.rate = step->rate;
    arguments.learning_rate = step->learning_rate;
    if (step->bits != 0)
      launch_pack(opened, on, arguments);  // before the thresholds change
    launch_columns(opened, on, arguments);
    if (step->loss != 0)
      td::launch_mean(opened, on, step->task_losses, states->tasks, step->loss);
  });
}

}  // extern "C"
