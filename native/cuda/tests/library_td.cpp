// The successor measure's C functions: against formulas, and what they refuse. Runs on the stand-in and on a device.
#include "library_td.h"

using namespace auxcore::test;

namespace {

bool close(double actual, double expected, double tolerance) { return std::fabs(actual - expected) <= tolerance; }

void indicator_td_agrees_with_the_formula() {
  constexpr int kRows = 37, kTasks = 75;
  Memory memory;
  const auxcore_indicator_td_batch batch = td_batch(memory, kRows, kTasks);
  OK(auxcore_indicator_td(context, nullptr, &batch));
  const std::vector<float> q = pattern(kRows * kTasks, 1), next = pattern(kRows * kTasks, 2), features = pattern(kRows * kTasks, 3),
                           thresholds = pattern(kTasks, 4), gradient = read<float>(batch.gradient, kRows * kTasks);
  double loss = 0;
  std::vector<int> active(kTasks);
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    const bool is_active = features[i] + thresholds[i % kTasks] > 0;
    const double error = q[i] - (is_active + 0.5 * next[i]);
    active[i % kTasks] += is_active;
    loss += error * error / 2 / kRows / kTasks;
    CHECK(close(gradient[i], error / kRows / kTasks, 1e-7), "element %zu", i);
  }
  CHECK(close(read<double>(batch.loss, 1)[0], loss, 1e-9 * loss));
  CHECK(read<int32_t>(batch.active_counts, kTasks) == active);
}

void calibration_agrees_with_the_definition() {
  constexpr int kRows = 50, kTasks = 9;
  Memory memory;
  const auxcore_indicator_td_batch batch = td_batch(memory, kRows, kTasks);
  const auxcore_indicator_states states = indicator_states(batch);
  const auxcore_pinball step = pinball(memory, batch);
  OK(auxcore_indicator_quantile(context, nullptr, &states, 10));
  const std::vector<int32_t> counts = read<int32_t>(states.active_counts, kTasks);
  OK(auxcore_indicator_pack(context, nullptr, &states, step.bits));
  CHECK(read<int32_t>(states.active_counts, kTasks) == counts);
  const std::vector<float> features = pattern(kRows * kTasks, 3), thresholds = read<float>(states.thresholds, kTasks);
  const std::vector<uint8_t> bits = read<uint8_t>(step.bits, kRows * 2);
  for (std::size_t task = 0; task < kTasks; ++task) {
    int count = 0;
    for (std::size_t row = 0; row < kRows; ++row) {
      const bool is_active = features[row * kTasks + task] + thresholds[task] > 0;
      CHECK(((bits[row * 2 + task / 8] >> (task % 8)) & 1) == is_active);
      count += is_active;
    }
    CHECK(count == counts[task] && count <= 10 && count > 0);
  }
  OK(auxcore_indicator_pinball(context, nullptr, &states, &step));
  const std::vector<float> gradient = read<float>(step.gradient, kTasks), moved = read<float>(states.thresholds, kTasks);
  const std::vector<double> losses = read<double>(step.task_losses, kTasks);
  double loss = 0;
  for (std::size_t task = 0; task < kTasks; ++task) {
    loss += losses[task] / kTasks;
    CHECK(close(moved[task], thresholds[task] - gradient[task], 1e-6));
  }
  CHECK(close(read<double>(step.loss, 1)[0], loss, 1e-12));
}

void a_ring_is_learned_and_swept() {
  constexpr int kStates = 40;
  Memory memory;
  std::vector<int32_t> current, next;
  for (int round = 0; round < 40; ++round)
    for (int state = kStates - 1; state >= 0; --state) {
      current.push_back(state);
      next.push_back((state + 1) % kStates);
    }
  auxcore_tabular_td_batch tabular = tabular_batch(memory, kStates, current, next);
  tabular.step_size = 1;
  OK(auxcore_tabular_td(context, nullptr, &tabular));
  const auxcore_sweep sweep = ring_sweep(memory, kStates);
  OK(auxcore_successor_sweep(context, nullptr, &sweep));
  const std::vector<float> learned = read<float>(tabular.measure, kStates * kStates), swept = read<float>(sweep.measure, kStates * kStates);
  for (int state = 0; state < kStates; ++state)
    for (int other = 0; other < kStates; ++other) {
      const double expected = std::pow(0.5, (other - state + kStates) % kStates);
      const auto at = static_cast<std::size_t>(state * kStates + other);
      CHECK(close(learned[at], expected, 1e-6) && close(swept[at], expected, 1e-6), "%g, %g, not %g", double(learned[at]),
          double(swept[at]), expected);
    }
}

void heads_agree_with_the_formula() {
  constexpr int kRows = 45, kTasks = 35, kFeatures = 33, kActions = 3;
  Memory memory;
  auxcore_indicator_td_batch batch = td_batch(memory, kRows, kTasks);
  const auxcore_pvn heads = pvn_heads(memory, batch, kFeatures, kActions);
  OK(auxcore_pvn_head(context, nullptr, &batch, &heads));
  const std::vector<float> phi = pattern(kRows * kFeatures, 5), next = pattern(kRows * kFeatures, 6),
                           weights = pattern(kTasks * kActions * kFeatures, 7), mean = pattern(kTasks * kFeatures, 8),
                           features = pattern(kRows * kTasks, 3), thresholds = pattern(kTasks, 4);
  std::vector<double> by_weight(weights.size());
  double loss = 0;
  for (std::size_t row = 0; row < kRows; ++row)
    for (std::size_t task = 0; task < kTasks; ++task) {
      const std::size_t head = (task * kActions + row * 7 % kActions) * kFeatures;
      double error = -(features[row * kTasks + task] + thresholds[task] > 0 ? 1.0 : 0.0);
      for (std::size_t f = 0; f < kFeatures; ++f)
        error += double{phi[row * kFeatures + f]} * weights[head + f] - 0.5 * double{next[row * kFeatures + f]} * mean[task * kFeatures
            + f];
      loss += error * error / 2 / kRows / kTasks;
      for (std::size_t f = 0; f < kFeatures; ++f)
        by_weight[head + f] += error * phi[row * kFeatures + f] / kRows / kTasks;
    }
  CHECK(close(read<double>(batch.loss, 1)[0], loss, 1e-5 * loss));
  const std::vector<float> actual = read<float>(heads.weight_gradient, by_weight.size());
  for (std::size_t i = 0; i < actual.size(); ++i)
    CHECK(close(actual[i], by_weight[i], 1e-3), "element %zu: %g, not %g", i, double(actual[i]), by_weight[i]);

  OK(auxcore_pvn_mean_over_actions(context, nullptr, heads.weights, kTasks, kActions, kFeatures, heads.target_mean));
  const std::vector<float> averaged = read<float>(heads.target_mean, kTasks * kFeatures);
  for (std::size_t task = 0; task < kTasks; ++task)
    for (std::size_t f = 0; f < kFeatures; ++f) {
      double sum = 0;
      for (std::size_t action = 0; action < kActions; ++action)
        sum += weights[(task * kActions + action) * kFeatures + f];
      CHECK(close(averaged[task * kFeatures + f], sum / kActions, 1e-6));
    }
}

void indices_are_checked() {
  Memory memory;
  std::vector<int32_t> indices(1000, 3);
  indices[700] = 4;
  indices[901] = -1;
  const uint64_t address = memory.add(indices);
  int32_t first = -7;
  OK(auxcore_first_bad_index(context, nullptr, address, 1000, 4, &first));
  CHECK(first == 700);
  OK(auxcore_first_bad_index(context, nullptr, address, 700, 4, &first));
  CHECK(first == 700);
  OK(auxcore_first_bad_index(context, nullptr, 0, 0, 4, &first));
  CHECK(first == 0);
  first = -7;
  REFUSED(AUXCORE_E_ARGUMENT, "first is NULL", auxcore_first_bad_index(context, nullptr, address, 10, 4, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "count is -1", auxcore_first_bad_index(context, nullptr, address, -1, 4, &first));
  REFUSED(AUXCORE_E_ARGUMENT, "limit is 0", auxcore_first_bad_index(context, nullptr, address, 10, 0, &first));
  REFUSED(AUXCORE_E_ARGUMENT, "indices: 0x", auxcore_first_bad_index(context, nullptr, address, 1 << 30, 4, &first));
  CHECK(first == -7);
}

/// Calls that differ from a good one in one thing.
template <class Struct>
struct Refusals {
  const Struct good;
  std::function<auxcore_status(const Struct*)> call;

  template <class Change>
  void operator()(auxcore_status status, const char* text, Change change) const {
    Struct wrong = good;
    change(wrong);
    REFUSED(status, text, call(&wrong));
  }
  template <class Change>
  void operator()(const char* text, Change change) const {
    (*this)(AUXCORE_E_ARGUMENT, text, change);
  }
};

void indicator_td_is_checked() {
  Memory memory;
  const Refusals<auxcore_indicator_td_batch> refused = {
      td_batch(memory, 4, 8), [](const auxcore_indicator_td_batch* batch) { return auxcore_indicator_td(context, nullptr, batch); }};
  using Batch = auxcore_indicator_td_batch;
  float host[64] = {};
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_indicator_td(0, nullptr, &refused.good));
  REFUSED(AUXCORE_E_ARGUMENT, "batch is NULL", auxcore_indicator_td(context, nullptr, nullptr));
  refused(AUXCORE_E_ABI, "struct_size is 4", [](Batch& batch) { batch.struct_size = 4; });
  refused("rows is 0", [](Batch& batch) { batch.rows = 0; });
  refused("tasks is -1", [](Batch& batch) { batch.tasks = -1; });
  refused("normalised is 2", [](Batch& batch) { batch.normalised = 2; });
  for (const double wrong : {1.0, -0.1, std::nan("")})
    refused("not within [0, 1)", [&](Batch& batch) { batch.discount = wrong; });
  refused("value_type 2", [](Batch& batch) { batch.value_type = AUXCORE_FLOAT16; });
  refused("feature_type 1", [](Batch& batch) { batch.feature_type = 1; });
  refused("prediction: 0x0", [](Batch& batch) { batch.prediction = 0; });
  refused("next_values: 0x", [&](Batch& batch) { batch.next_values = reinterpret_cast<uint64_t>(host); });
  refused("done: 0x0", [](Batch& batch) { batch.done = 0; });
  refused("features: 0x0", [](Batch& batch) { batch.features = 0; });
  refused("thresholds: 0x0", [](Batch& batch) { batch.thresholds = 0; });
  refused("prediction: 0x", [](Batch& batch) { batch.rows = 1 << 24; });
  refused("is not aligned to its elements of 4", [](Batch& batch) { batch.prediction += 2; });
  refused("is not aligned to its elements of 8", [](Batch& batch) { batch.loss += 4; });
  refused("gradient: 0x", [&](Batch& batch) { batch.gradient = reinterpret_cast<uint64_t>(host); });
  refused("row_losses is 0", [](Batch& batch) { batch.row_losses = 0; });
  refused("gradient overlaps prediction", [](Batch& batch) { batch.gradient = batch.prediction; });
  refused("mean_absolute_errors overlaps active_counts", [](Batch& batch) { batch.mean_absolute_errors = batch.active_counts; });
  CHECK(read<float>(refused.good.gradient, 32) == std::vector<float>(32), "what was refused was not done");
}

void calibration_is_checked() {
  Memory memory;
  const auxcore_indicator_td_batch batch = td_batch(memory, 4, 8);
  const auxcore_pinball step = pinball(memory, batch);
  const auxcore_indicator_states good = indicator_states(batch);
  using States = auxcore_indicator_states;
  for (const auto& call : std::vector<std::function<auxcore_status(const States*)>>{
           [](const States* states) { return auxcore_indicator_quantile(context, nullptr, states, 2); },
           [&](const States* states) { return auxcore_indicator_pack(context, nullptr, states, step.bits); },
           [&](const States* states) { return auxcore_indicator_pinball(context, nullptr, states, &step); }}) {
    const Refusals<States> refused = {good, call};
    REFUSED(AUXCORE_E_ARGUMENT, "states is NULL", call(nullptr));
    refused(AUXCORE_E_ABI, "struct_size is 0", [](States& states) { states.struct_size = 0; });
    refused("rows is 0", [](States& states) { states.rows = 0; });
    refused("tasks is 0", [](States& states) { states.tasks = 0; });
    refused("feature_type 4", [](States& states) { states.feature_type = AUXCORE_UINT8; });
    refused("features: 0x0", [](States& states) { states.features = 0; });
    refused("thresholds: 0x0", [](States& states) { states.thresholds = 0; });
    refused("active_counts: 0x", [](States& states) { states.active_counts = 4; });
    refused("active_counts overlaps", [](States& states) { states.active_counts = states.features; });
  }
  REFUSED(AUXCORE_E_ARGUMENT, "wanted is 0", auxcore_indicator_quantile(context, nullptr, &good, 0));
  REFUSED(AUXCORE_E_ARGUMENT, "wanted is 4", auxcore_indicator_quantile(context, nullptr, &good, 4));
  REFUSED(AUXCORE_E_ARGUMENT, "bits: 0x0", auxcore_indicator_pack(context, nullptr, &good, 0));
  REFUSED(AUXCORE_E_ARGUMENT, "bits overlaps features", auxcore_indicator_pack(context, nullptr, &good, good.features + 1));

  using Step = auxcore_pinball;
  const Refusals<Step> refused = {step, [&](const Step* wrong) { return auxcore_indicator_pinball(context, nullptr, &good, wrong); }};
  REFUSED(AUXCORE_E_ARGUMENT, "step is NULL", auxcore_indicator_pinball(context, nullptr, &good, nullptr));
  refused(AUXCORE_E_ABI, "struct_size is 9", [](Step& wrong) { wrong.struct_size = 9; });
  refused("reserved is 1", [](Step& wrong) { wrong.reserved = 1; });
  for (const double rate : {0.0, 1.0, std::nan("")})
    refused("not within (0, 1)", [&](Step& wrong) { wrong.rate = rate; });
  for (const double rate : {-1.0, HUGE_VAL, std::nan("")})
    refused("learning_rate is", [&](Step& wrong) { wrong.learning_rate = rate; });
  refused("task_losses is 0", [](Step& wrong) { wrong.task_losses = 0; });
  refused("gradient overlaps thresholds", [&](Step& wrong) { wrong.gradient = good.thresholds; });
  CHECK(read<float>(good.thresholds, 8) == pattern(8, 4), "what was refused was not done");
}

void tabular_td_is_checked() {
  Memory memory;
  using Batch = auxcore_tabular_td_batch;
  const Refusals<Batch> refused = {
      tabular_batch(memory, 4, {1, 2}, {0, 3}), [](const Batch* batch) { return auxcore_tabular_td(context, nullptr, batch); }};
  REFUSED(AUXCORE_E_ARGUMENT, "batch is NULL", auxcore_tabular_td(context, nullptr, nullptr));
  refused(AUXCORE_E_ABI, "struct_size is 1", [](Batch& batch) { batch.struct_size = 1; });
  refused("states is 0", [](Batch& batch) { batch.states = 0; });
  refused("transitions is -1", [](Batch& batch) { batch.transitions = -1; });
  refused("counts_next is 2", [](Batch& batch) { batch.counts_next = 2; });
  refused("normalised is 2", [](Batch& batch) { batch.normalised = 2; });
  refused("reserved is 2", [](Batch& batch) { batch.reserved = 2; });
  refused("step_size is 1.5", [](Batch& batch) { batch.step_size = 1.5; });
  refused("discount is 1", [](Batch& batch) { batch.discount = 1; });
  refused("measure: 0x0", [](Batch& batch) { batch.measure = 0; });
  refused("measure: 0x", [](Batch& batch) { batch.states = 1 << 20; });
  refused("current: 0x0", [](Batch& batch) { batch.current = 0; });
  refused("next: 0x0", [](Batch& batch) { batch.next = 0; });
  refused("done: 0x0", [](Batch& batch) { batch.done = 0; });
  refused("snapshot overlaps measure", [](Batch& batch) { batch.snapshot = batch.measure; });
  CHECK(read<float>(refused.good.measure, 16) == std::vector<float>(16), "what was refused was not done");
  Batch empty = refused.good;
  empty.transitions = 0;
  empty.current = empty.next = empty.done = 0;
  OK(auxcore_tabular_td(context, nullptr, &empty));
}

void sweeps_are_checked() {
  Memory memory;
  using Sweep = auxcore_sweep;
  const Refusals<Sweep> refused = {
      ring_sweep(memory, 4), [](const Sweep* sweep) { return auxcore_successor_sweep(context, nullptr, sweep); }};
  REFUSED(AUXCORE_E_ARGUMENT, "sweep is NULL", auxcore_successor_sweep(context, nullptr, nullptr));
  refused(AUXCORE_E_ABI, "struct_size is 1", [](Sweep& sweep) { sweep.struct_size = 1; });
  refused("states is 0", [](Sweep& sweep) { sweep.states = 0; });
  refused("sweeps is 0", [](Sweep& sweep) { sweep.sweeps = 0; });
  refused("entries is -1", [](Sweep& sweep) { sweep.entries = -1; });
  refused("in_place is 2", [](Sweep& sweep) { sweep.in_place = 2; });
  refused("counts_next is 2", [](Sweep& sweep) { sweep.counts_next = 2; });
  refused("normalised is 2", [](Sweep& sweep) { sweep.normalised = 2; });
  refused("reserved is 2", [](Sweep& sweep) { sweep.reserved = 2; });
  refused("discount is 1", [](Sweep& sweep) { sweep.discount = 1; });
  refused("scratch is 0", [](Sweep& sweep) { sweep.scratch = 0; });
  refused("row_offsets: 0x0", [](Sweep& sweep) { sweep.row_offsets = 0; });
  refused("columns: 0x0", [](Sweep& sweep) { sweep.columns = 0; });
  refused("values: 0x0", [](Sweep& sweep) { sweep.values = 0; });
  refused("measure: 0x0", [](Sweep& sweep) { sweep.measure = 0; });
  refused("scratch overlaps measure", [](Sweep& sweep) { sweep.scratch = sweep.measure; });
  refused("changes overlaps values", [](Sweep& sweep) { sweep.changes = sweep.values; });
  CHECK(read<float>(refused.good.measure, 16) == std::vector<float>(16), "what was refused was not done");
}

// What device memory says of a matrix is not to be trusted, and must not lead out of it.
void a_matrix_of_garbage_gives_numbers_or_NaN() {
  Memory memory;
  auxcore_sweep sweep = ring_sweep(memory, 4);
  sweep.sweeps = 1;
  for (const auto& offsets : std::vector<std::vector<int32_t>>{{-100, 2, 1, 1 << 30, 4}, {3, 2, 1, 0, -1}}) {
    sweep.row_offsets = memory.add(offsets);
    sweep.columns = memory.add(std::vector<int32_t>{1 << 30, -1, 4, 0});
    OK(auxcore_successor_sweep(context, nullptr, &sweep));
    OK(auxcore_stream_synchronize(context, nullptr));
  }
}

void heads_are_checked() {
  Memory memory;
  auxcore_indicator_td_batch batch = td_batch(memory, 4, 8);
  auxcore_indicator_td_batch whole = batch;
  using Heads = auxcore_pvn;
  const Refusals<Heads> refused = {
      pvn_heads(memory, batch, 5, 3), [&](const Heads* heads) { return auxcore_pvn_head(context, nullptr, &batch, heads); }};
  const Heads& good = refused.good;
  REFUSED(AUXCORE_E_ARGUMENT, "batch or heads is NULL", auxcore_pvn_head(context, nullptr, nullptr, &good));
  REFUSED(AUXCORE_E_ARGUMENT, "batch or heads is NULL", auxcore_pvn_head(context, nullptr, &batch, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "are not all 0", auxcore_pvn_head(context, nullptr, &whole, &good));
  refused(AUXCORE_E_ABI, "struct_size is 1", [](Heads& heads) { heads.struct_size = 1; });
  refused("features is 0", [](Heads& heads) { heads.features = 0; });
  refused("actions is 0", [](Heads& heads) { heads.actions = 0; });
  refused("reserved is 1", [](Heads& heads) { heads.reserved = 1; });
  refused("workspace: 10 bytes", [](Heads& heads) { heads.workspace_bytes = 10; });
  refused("is not aligned to 256", [](Heads& heads) { heads.workspace += 128; });
  refused("workspace: 0x0", [](Heads& heads) { heads.workspace = 0; });
  refused("current: 0x0", [](Heads& heads) { heads.current = 0; });
  refused("next: 0x0", [](Heads& heads) { heads.next = 0; });
  refused("weights: 0x0", [](Heads& heads) { heads.weights = 0; });
  refused("target_mean: 0x0", [](Heads& heads) { heads.target_mean = 0; });
  refused("taken: 0x0", [](Heads& heads) { heads.taken = 0; });
  refused("more than memory holds", [](Heads& heads) {
    heads.features = INT32_MAX;
    heads.actions = INT32_MAX;
    heads.workspace_bytes = INT64_MAX;
  });
  refused("feature_gradient overlaps current", [](Heads& heads) { heads.feature_gradient = heads.current; });
  refused("weight_gradient overlaps weights", [](Heads& heads) { heads.weight_gradient = heads.weights; });
  batch.discount = 1;
  REFUSED(AUXCORE_E_ARGUMENT, "discount is 1", auxcore_pvn_head(context, nullptr, &batch, &good));
  batch.discount = 0.5;
  batch.row_losses = 0;
  REFUSED(AUXCORE_E_ARGUMENT, "row_losses is 0", auxcore_pvn_head(context, nullptr, &batch, &good));
  CHECK(read<float>(good.weight_gradient, 120) == std::vector<float>(120), "what was refused was not done");

  int64_t bytes = -1;
  REFUSED(AUXCORE_E_ARGUMENT, "bytes is NULL", auxcore_pvn_head_workspace(1, 1, 1, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "rows is 0", auxcore_pvn_head_workspace(0, 1, 1, &bytes));
  REFUSED(AUXCORE_E_ARGUMENT, "tasks is 0", auxcore_pvn_head_workspace(1, 0, 1, &bytes));
  REFUSED(AUXCORE_E_ARGUMENT, "actions is 0", auxcore_pvn_head_workspace(1, 1, 0, &bytes));
  CHECK(bytes == -1);
  REFUSED(AUXCORE_E_ARGUMENT, "features is 0", auxcore_pvn_mean_over_actions(context, nullptr, good.weights, 8, 3, 0, good.target_mean));
  REFUSED(AUXCORE_E_ARGUMENT, "mean: 0x0", auxcore_pvn_mean_over_actions(context, nullptr, good.weights, 8, 3, 5, 0));
  REFUSED(AUXCORE_E_ARGUMENT, "mean overlaps weights",
      auxcore_pvn_mean_over_actions(context, nullptr, good.weights, 8, 3, 5, good.weights + 320));
}

}  // namespace

int main() {
  open_or_skip();
  skip_without_device_code();
  indicator_td_agrees_with_the_formula();
  calibration_agrees_with_the_definition();
  a_ring_is_learned_and_swept();
  heads_agree_with_the_formula();
  indices_are_checked();
  indicator_td_is_checked();
  calibration_is_checked();
  tabular_td_is_checked();
  sweeps_are_checked();
  a_matrix_of_garbage_gives_numbers_or_NaN();
  heads_are_checked();
  OK(auxcore_close(context));
  return result();
}
