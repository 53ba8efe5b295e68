// Batches for the tests of the successor measure's C functions.
#pragma once

#include <functional>

#include "library.h"

namespace auxcore::test {

/// Device memory that ends with the object.
class Memory {
 public:
  template <class T>
  uint64_t add(const std::vector<T>& values) {
    uint64_t address = 0;
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    OK(auxcore_allocate(context, bytes, &address));
    OK(auxcore_copy_to_device(context, nullptr, address, values.data(), bytes));
    addresses_.push_back(address);
    return address;
  }
  ~Memory() {
    for (const uint64_t address : addresses_)
      OK(auxcore_free(context, address));
  }
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

 private:
  std::vector<uint64_t> addresses_;
};

template <class T>
std::vector<T> read(uint64_t address, std::size_t count, void* stream = nullptr) {
  std::vector<T> values(count);
  OK(auxcore_copy_to_host(context, stream, values.data(), address, static_cast<int64_t>(count * sizeof(T))));
  return values;
}

inline auxcore_indicator_td_batch td_batch(Memory& memory, int rows, int tasks) {
  const auto count = static_cast<std::size_t>(rows * tasks), columns = static_cast<std::size_t>(tasks);
  auxcore_indicator_td_batch batch = {};
  batch.struct_size = sizeof batch;
  batch.rows = rows;
  batch.tasks = tasks;
  batch.discount = 0.5;
  batch.value_type = batch.feature_type = AUXCORE_FLOAT32;
  batch.prediction = memory.add(pattern(count, 1));
  batch.next_values = memory.add(pattern(count, 2));
  batch.done = memory.add(std::vector<uint8_t>(static_cast<std::size_t>(rows), 0));
  batch.features = memory.add(pattern(count, 3));
  batch.thresholds = memory.add(pattern(columns, 4));
  batch.gradient = memory.add(std::vector<float>(count));
  batch.loss = memory.add(std::vector<double>(1));
  batch.row_losses = memory.add(std::vector<double>(static_cast<std::size_t>(rows)));
  batch.active_counts = memory.add(std::vector<int32_t>(columns));
  batch.mean_absolute_errors = memory.add(std::vector<float>(columns));
  return batch;
}

inline auxcore_indicator_states indicator_states(const auxcore_indicator_td_batch& batch) {
  return {sizeof(auxcore_indicator_states), batch.rows, batch.tasks, AUXCORE_FLOAT32, batch.features, batch.thresholds,
      batch.active_counts};
}

inline auxcore_pinball pinball(Memory& memory, const auxcore_indicator_td_batch& batch) {
  const auto tasks = static_cast<std::size_t>(batch.tasks);
  return {sizeof(auxcore_pinball), 0, 0.25, 1.0, memory.add(std::vector<uint8_t>(static_cast<std::size_t>(batch.rows) * ((tasks + 7) / 8))),
      memory.add(std::vector<float>(tasks)), memory.add(std::vector<double>(1)), memory.add(std::vector<double>(tasks))};
}

inline auxcore_tabular_td_batch tabular_batch(Memory& memory, int states, const std::vector<int32_t>& current,
    const std::vector<int32_t>& next) {
  const auto count = static_cast<std::size_t>(states * states);
  auxcore_tabular_td_batch batch = {};
  batch.struct_size = sizeof batch;
  batch.states = states;
  batch.transitions = static_cast<int32_t>(current.size());
  batch.step_size = 0.5;
  batch.discount = 0.5;
  batch.measure = memory.add(std::vector<float>(count));
  batch.current = memory.add(current);
  batch.next = memory.add(next);
  batch.done = memory.add(std::vector<uint8_t>(current.size()));
  return batch;
}

/// A ring of so many states.
inline auxcore_sweep ring_sweep(Memory& memory, int states) {
  std::vector<int32_t> offsets, columns;
  for (int state = 0; state <= states; ++state) {
    offsets.push_back(state);
    if (state < states)
      columns.push_back((state + 1) % states);
  }
  auxcore_sweep sweep = {};
  sweep.struct_size = sizeof sweep;
  sweep.states = sweep.entries = states;
  sweep.sweeps = 30;
  sweep.discount = 0.5;
  sweep.row_offsets = memory.add(offsets);
  sweep.columns = memory.add(columns);
  sweep.values = memory.add(std::vector<float>(columns.size(), 1.0f));
  sweep.measure = memory.add(std::vector<float>(static_cast<std::size_t>(states * states)));
  sweep.scratch = memory.add(std::vector<float>(static_cast<std::size_t>(states * states)));
  sweep.changes = memory.add(std::vector<float>(static_cast<std::size_t>(states)));
  return sweep;
}

/// Heads for a batch, whose predictions, next values and gradient it takes away.
inline auxcore_pvn pvn_heads(Memory& memory, auxcore_indicator_td_batch& batch, int features, int actions) {
  batch.prediction = batch.next_values = batch.gradient = 0;
  const int rows = batch.rows, heads = batch.tasks * actions;
  const auto size = [&](int count) { return static_cast<std::size_t>(count * features); };
  std::vector<int32_t> taken;
  for (int row = 0; row < rows; ++row)
    taken.push_back(row * 7 % actions);
  auxcore_pvn pvn = {};
  pvn.struct_size = sizeof pvn;
  pvn.features = features;
  pvn.actions = actions;
  pvn.current = memory.add(pattern(size(rows), 5));
  pvn.next = memory.add(pattern(size(rows), 6));
  pvn.weights = memory.add(pattern(size(heads), 7));
  pvn.target_mean = memory.add(pattern(size(batch.tasks), 8));
  pvn.taken = memory.add(taken);
  pvn.feature_gradient = memory.add(std::vector<float>(size(rows)));
  pvn.weight_gradient = memory.add(std::vector<float>(size(heads)));
  OK(auxcore_pvn_head_workspace(rows, batch.tasks, actions, &pvn.workspace_bytes));
  pvn.workspace = memory.add(std::vector<uint8_t>(static_cast<std::size_t>(pvn.workspace_bytes)));
  return pvn;
}

}  // namespace auxcore::test
