// The kernels of the successor measure against their formulas in plain loops: lengths around a warp's and a block's edge, thread orders.
#include "../device/device.cuh"
#include "../successor_measure/indicator_calibration.cuh"
#include "../successor_measure/indicator_td.cuh"
#include "../successor_measure/pvn_head.cuh"
#include "../successor_measure/successor_sweep.cuh"
#include "../successor_measure/tabular_td.cuh"

#include "check.h"
#include "random.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace auxcore {

namespace indicator_td {
extern "C" void auxcore_indicator_td_rows(Arguments arguments);
extern "C" void auxcore_indicator_td_columns(Arguments arguments);
extern "C" void auxcore_mean_of_doubles(const double* values, int32_t count, double* mean);
}  // namespace indicator_td

namespace indicator_calibration {
extern "C" void auxcore_indicator_pack(Arguments arguments);
extern "C" void auxcore_indicator_columns(Arguments arguments);
extern "C" void auxcore_indicator_select(Arguments arguments);
}  // namespace indicator_calibration

namespace tabular_td {
extern "C" void auxcore_tabular_td_global(Arguments arguments);
extern "C" void auxcore_tabular_td_shared(Arguments arguments, int32_t takes_snapshot);
extern "C" void auxcore_first_bad_index(const int32_t* indices, int32_t count, int32_t limit, int32_t* first);
}  // namespace tabular_td

namespace successor_sweep {
extern "C" void auxcore_successor_sweep_rows(Arguments arguments, const float* read, float* write);
extern "C" void auxcore_successor_sweep_columns(Arguments arguments, float* measure);
extern "C" void auxcore_successor_sweep_changes(const float* now, const float* before, int32_t states, float* changes);
}  // namespace successor_sweep

namespace pvn_head {
extern "C" void auxcore_pvn_group(const int32_t* actions, int32_t rows, int32_t action_count, int32_t* order, int32_t* offsets);
extern "C" void auxcore_pvn_errors(Arguments arguments, int32_t task_tiles);
extern "C" void auxcore_pvn_row_losses(const double* losses, int32_t rows, int32_t task_tiles, double share, double* row_losses);
extern "C" void auxcore_pvn_feature_gradient(Arguments arguments, int32_t feature_tiles);
extern "C" void auxcore_pvn_weight_gradient(Arguments arguments, int32_t task_tiles, int32_t feature_tiles);
extern "C" void auxcore_pvn_columns(Arguments arguments, int32_t* active_counts, float* mean_absolute_errors);
extern "C" void auxcore_pvn_mean(const float* weights, int32_t tasks, int32_t actions, int32_t features, float* mean);
}  // namespace pvn_head

namespace {

using test::next_random;
using test::random_state;

/// Multiples of 1/64 within [-2, 2], so that sums of products are exact, and the order of additions does not show.
float random_value() { return float(int(next_random() % 257) - 128) / 64.0f; }

template <class T = float>
std::vector<T> random_values(size_t count) {
  std::vector<T> values(count);
  for (T& value : values)
    value = T(random_value());
  return values;
}

std::vector<int32_t> random_indices(size_t count, int limit) {
  std::vector<int32_t> indices(count);
  for (int32_t& index : indices)
    index = int32_t(next_random() % uint32_t(limit));
  return indices;
}

unsigned blocks(size_t elements, size_t per_block) { return unsigned((elements + per_block - 1) / per_block); }

bool close(double actual, double expected, double tolerance) {
  return std::isnan(expected) ? std::isnan(actual) : std::fabs(actual - expected) <= tolerance;
}

template <class Actual, class Expected>
void same(const char* what, const std::vector<Actual>& actual, const std::vector<Expected>& expected, double tolerance) {
  CHECK(actual.size() == expected.size(), "%s", what);
  for (size_t i = 0; i < actual.size(); ++i)
    if (!close(double(actual[i]), double(expected[i]), tolerance)) {
      CHECK(false, "%s: element %zu of %zu is %g, not %g", what, i, actual.size(), double(actual[i]), double(expected[i]));
      return;
    }
}

/// A batch of predictions, next values and sets, of each type.
struct Batch {
  int rows, tasks;
  std::vector<float> prediction, next, features, thresholds;
  std::vector<bfloat16> narrow;
  std::vector<uint8_t> done, bits;
  td::Sets sets;
  static constexpr float kDiscount = 0.5f, kHeight = 0.5f;

  Batch(int rows_, int tasks_, int type) : rows(rows_), tasks(tasks_) {
    const size_t count = size_t(rows) * size_t(tasks);
    prediction = random_values(count);
    next = random_values(count);
    features = random_values(count);
    thresholds = random_values(size_t(tasks));
    for (float feature : features)
      narrow.push_back({uint16_t(as_bits(feature) >> 16)});  // exact: their mantissas are short
    for (int row = 0; row < rows; ++row)
      done.push_back(next_random() % 4 == 0 ? 7 : 0);
    for (size_t byte = 0; byte < size_t(rows) * size_t((tasks + 7) / 8); ++byte)
      bits.push_back(uint8_t(next_random()));
    sets = {type == td::kFloat32 ? static_cast<void*>(features.data())
            : type == td::kBFloat16 ? static_cast<void*>(narrow.data()) : static_cast<void*>(bits.data()),
        thresholds.data(), type};
  }

  double indicator(int row, int task) const {
    if (sets.type == td::kBits)
      return bits[size_t(row) * size_t((tasks + 7) / 8) + size_t(task / 8)] >> (task % 8) & 1;
    return features[size_t(row * tasks + task)] + thresholds[size_t(task)] > 0 ? 1 : 0;
  }

  double target(int row, int task, double value) const {
    return indicator(row, task) * double{kHeight} + (done[size_t(row)] != 0 ? 0 : double{kDiscount} * value);
  }
};

void indicator_td_agrees() {
  using namespace indicator_td;
  for (const int type : {int(td::kFloat32), int(td::kBFloat16), int(td::kBits)})
    for (const auto& [rows, tasks] : {std::pair(1, 1), {7, 31}, {8, 32}, {9, 33}, {20, 65}, {3, 7}}) {
      Batch batch(rows, tasks, type);
      const size_t count = size_t(rows) * size_t(tasks);
      std::vector<float> gradient(count), magnitude(static_cast<size_t>(tasks)), expected(count), expected_magnitude(magnitude.size());
      std::vector<double> losses(static_cast<size_t>(rows)), expected_losses(losses.size());
      std::vector<int32_t> active(magnitude.size()), expected_active(magnitude.size());
      double loss = 0, expected_loss = 0;
      for (int row = 0; row < rows; ++row) {
        for (int task = 0; task < tasks; ++task) {
          const size_t at = size_t(row * tasks + task);
          const double error = batch.prediction[at] - batch.target(row, task, batch.next[at]);
          expected[at] = float(error) * (1.0f / float(count));
          expected_losses[size_t(row)] += error * error / 2 / tasks;
          expected_magnitude[size_t(task)] += float(std::fabs(error)) / float(rows);
          expected_active[size_t(task)] += int(batch.indicator(row, task));
        }
        expected_loss += expected_losses[size_t(row)] / rows;
      }
      const Arguments arguments = {batch.prediction.data(), batch.next.data(), batch.done.data(), batch.sets, gradient.data(),
          losses.data(), active.data(), magnitude.data(), rows, tasks, td::kFloat32, Batch::kDiscount, Batch::kHeight,
          1.0f / float(count), 0.5 / tasks};
      simt::launch(auxcore_indicator_td_rows, {blocks(size_t(rows), kRows), kThreads, 0}, arguments);
      simt::launch(auxcore_indicator_td_columns, {blocks(size_t(tasks), td::kColumns), kColumnThreads, 0}, arguments);
      simt::launch(auxcore_mean_of_doubles, {1, kThreads, 0}, losses.data(), rows, &loss);
      same("gradient", gradient, expected, 0);
      same("row losses", losses, expected_losses, 1e-12);
      same("active", active, expected_active, 0);
      same("mean errors", magnitude, expected_magnitude, 1e-5);
      CHECK(close(loss, expected_loss, 1e-12), "%g, not %g", loss, expected_loss);
    }
}

void calibration_agrees() {
  using namespace indicator_calibration;
  for (const int type : {int(td::kFloat32), int(td::kBFloat16)})
    for (const auto& [rows, tasks] : {std::pair(3, 1), {8, 31}, {40, 32}, {9, 33}, {70, 70}}) {
      Batch batch(rows, tasks, type);
      if (tasks > 32 && type == td::kFloat32)
        batch.features[size_t(2 * tasks + 5)] = NAN;
      const double rate = 0.25, learning_rate = 2;
      const size_t bytes = size_t((tasks + 7) / 8);
      std::vector<float> thresholds = batch.thresholds, gradient(static_cast<size_t>(tasks));
      std::vector<double> losses(gradient.size());
      std::vector<int32_t> active(gradient.size());
      std::vector<uint8_t> bits(size_t(rows) * bytes, 0xff);
      Arguments arguments = {batch.sets.features, thresholds.data(), bits.data(), active.data(), gradient.data(), losses.data(), rows,
          tasks, type, 0, rate, learning_rate};
      simt::launch(auxcore_indicator_pack, {blocks(size_t(rows), kRows), kThreads, 0}, arguments);
      simt::launch(auxcore_indicator_columns, {blocks(size_t(tasks), td::kColumns), kColumnThreads, 0}, arguments);
      for (int task = 0; task < tasks; ++task) {
        int count = 0, negative = 0;
        double loss = 0;
        bool is_nan = false;
        for (int row = 0; row < rows; ++row) {
          const float x = batch.features[size_t(row * tasks + task)] + batch.thresholds[size_t(task)];
          count += x > 0;
          negative += x < 0;
          is_nan = is_nan || std::isnan(x);
          loss += x * (x > 0 ? 1 - rate : -rate) / rows;
          CHECK((bits[size_t(row) * bytes + size_t(task / 8)] >> (task % 8) & 1) == (x > 0));
        }
        const double slope = is_nan ? NAN : (1 - rate - negative / double(rows)) / tasks;
        CHECK(active[size_t(task)] == (is_nan ? -1 : count));
        CHECK(close(losses[size_t(task)], loss, 1e-6) && close(gradient[size_t(task)], slope, 1e-7));
        CHECK(close(thresholds[size_t(task)], batch.thresholds[size_t(task)] - learning_rate * slope, 1e-6));
      }
      for (int row = 0; row < rows && tasks % 8 != 0; ++row)
        CHECK(bits[size_t(row + 1) * bytes - 1] >> (tasks % 8) == 0, "what lies behind the last task is 0");

      for (const int wanted : {1, rows / 2, rows - 1}) {
        arguments.wanted = wanted;
        simt::launch(auxcore_indicator_select, {blocks(size_t(tasks), td::kColumns), kSelectThreads, 0}, arguments);
        for (int task = 0; task < tasks; ++task) {
          std::vector<float> column;
          for (int row = 0; row < rows; ++row)
            column.push_back(batch.features[size_t(row * tasks + task)]);
          const bool is_nan = std::any_of(column.begin(), column.end(), [](float value) { return std::isnan(value); });
          if (!is_nan)
            std::sort(column.begin(), column.end(), std::greater<>());
          const float quantile = column[size_t(wanted)];
          const auto above = std::count_if(column.begin(), column.end(), [&](float value) { return value > quantile; });
          CHECK(close(thresholds[size_t(task)], is_nan ? NAN : -quantile, 0) && active[size_t(task)] == (is_nan ? -1 : above));
        }
      }
    }
}

void tabular_td_agrees() {
  using namespace tabular_td;
  for (const auto& [states, transitions] : {std::pair(1, 3), {31, 70}, {33, 64}, {70, 33}, {40, 0}})
    for (const bool takes_snapshot : {false, true})
      for (const int counts_next : {0, 1}) {
        const size_t n = size_t(states);
        std::vector<float> table = random_values(n * n), before = table;
        std::vector<int32_t> current = random_indices(size_t(transitions), states), next = random_indices(size_t(transitions), states);
        std::vector<uint8_t> done;
        for (int i = 0; i < transitions; ++i)
          done.push_back(next_random() % 5 == 0);
        if (transitions > 20) {
          current[3] = -1;
          current[5] = states;
          next[9] = 1 << 30;
        }
        const Arguments arguments = {nullptr, nullptr, current.data(), next.data(), done.data(), states, transitions, counts_next, 0.25f,
            0.5f, 0.5f};
        std::vector<float> global = before, shared = before;
        Arguments on_global = arguments, on_shared = arguments;
        on_global.measure = global.data();
        on_global.snapshot = takes_snapshot ? before.data() : global.data();
        on_shared.measure = shared.data();
        simt::launch(auxcore_tabular_td_global, {blocks(n, kThreads), kThreads, 0}, on_global);
        simt::launch(auxcore_tabular_td_shared, {blocks(n, kThreads), kThreads, n * kThreads * 4 * (takes_snapshot ? 2 : 1)}, on_shared,
            int32_t(takes_snapshot));

        for (size_t i = 0; i < size_t(transitions); ++i) {
          if (current[i] < 0 || current[i] >= states)
            continue;
          for (int column = 0; column < states; ++column) {
            float target = (counts_next ? next[i] : current[i]) == column ? 0.5f : 0;
            if (next[i] < 0 || next[i] >= states)
              target = NAN;
            else if (!done[i])
              target = std::fma(0.5f, (takes_snapshot ? before : table)[size_t(next[i]) * n + size_t(column)], target);
            float& element = table[size_t(current[i]) * n + size_t(column)];
            element = std::fma(0.25f, target - element, element);
          }
        }
        same("global", global, table, 0);
        same("shared", shared, table, 0);
      }

  for (const int count : {1, 255, 256, 257, 1000})
    for (const int bad : {-1, 0, count / 2, count - 1}) {
      std::vector<int32_t> indices = random_indices(size_t(count), 9);
      if (bad >= 0)
        for (int i = bad; i < count; i += 100)
          indices[size_t(i)] = i % 2 ? 9 : -5;
      int32_t first = -7;
      simt::launch(auxcore_first_bad_index, {1, kIndexThreads, 0}, indices.data(), count, 9, &first);
      CHECK(first == (bad < 0 ? count : bad), "%d, not %d of %d", first, bad, count);
    }
}

void sweeps_agree() {
  using namespace successor_sweep;
  for (const int states : {1, 5, 31, 33, 129})
    for (const int counts_next : {0, 1}) {
      const size_t n = size_t(states);
      std::vector<int32_t> offsets = {0}, columns;
      std::vector<float> values;
      for (int row = 0; row < states; ++row) {
        for (uint32_t k = next_random() % 4; k > 0; --k) {
          columns.push_back(int32_t(next_random() % uint32_t(states)));
          values.push_back(0.25f);
        }
        offsets.push_back(int32_t(columns.size()));
      }
      if (!columns.empty() && states > 20)
        columns[columns.size() / 2] = states + 3;
      const Arguments arguments = {offsets.data(), columns.data(), values.data(), states, int32_t(columns.size()), counts_next, 0.5f, 0.5f};
      const std::vector<float> before = random_values(n * n);
      std::vector<float> jacobi(n * n), in_place = before, expected(n * n), expected_in_place = before, changes(n), expected_changes(n);
      const auto swept = [&](const std::vector<float>& read, int row, int column) {
        double sum = 0, counted = !counts_next && row == column ? 0.5 : 0;
        for (int k = offsets[size_t(row)]; k < offsets[size_t(row) + 1]; ++k) {
          const int state = columns[size_t(k)];
          sum += state < states ? double{values[size_t(k)]} * double{read[size_t(state) * n + size_t(column)]} : double{NAN};
          if (counts_next && state == column)
            counted += 0.5 * double{values[size_t(k)]};
        }
        return float(0.5 * sum + counted);
      };
      for (int row = 0; row < states; ++row)
        for (int column = 0; column < states; ++column) {
          expected[size_t(row) * n + size_t(column)] = swept(before, row, column);
          expected_in_place[size_t(row) * n + size_t(column)] = swept(expected_in_place, row, column);
        }
      for (size_t column = 0; column < n; ++column)
        for (size_t row = 0; row < n; ++row) {
          const float change = std::fabs(expected[row * n + column] - before[row * n + column]);
          expected_changes[column] = std::isnan(change) || std::isnan(expected_changes[column]) ? NAN
              : std::max(change, expected_changes[column]);
        }
      simt::launch(auxcore_successor_sweep_rows, {unsigned(states) * blocks(n, kThreads), kThreads, 0}, arguments, before.data(),
          jacobi.data());
      simt::launch(auxcore_successor_sweep_columns, {blocks(n, kColumnThreads), kColumnThreads, 0}, arguments, in_place.data());
      simt::launch(auxcore_successor_sweep_changes, {blocks(n, td::kColumns), kChangeThreads, 0}, jacobi.data(), before.data(), states,
          changes.data());
      same("Jacobi", jacobi, expected, 1e-6);
      same("in place", in_place, expected_in_place, 1e-6);
      same("changes", changes, expected_changes, 1e-6);
    }
}

struct Heads {
  Batch batch;
  int features, actions;
  std::vector<float> current, next, weights, mean;
  std::vector<int32_t> taken;

  Heads(int rows, int tasks, int features_, int actions_, int type)
      : batch(rows, tasks, type), features(features_), actions(actions_), current(random_values(size_t(rows * features))),
        next(random_values(size_t(rows * features))), weights(random_values(size_t(tasks * actions * features))),
        mean(random_values(size_t(tasks * features))), taken(random_indices(size_t(rows), actions)) {
    if (rows > 30) {
      taken[7] = -1;
      taken[20] = actions;
    }
  }

  bool has_action(int row) const { return taken[size_t(row)] >= 0 && taken[size_t(row)] < actions; }
  size_t head(int task, int row) const { return size_t(task * actions + taken[size_t(row)]) * size_t(features); }

  static double dot(const float* left, const float* right, int count) {
    double sum = 0;
    for (int i = 0; i < count; ++i)
      sum += double{left[i]} * double{right[i]};
    return sum;
  }
};

void heads_agree() {
  using namespace pvn_head;
  for (const auto& [rows, tasks, features, actions] :
      {std::tuple(1, 1, 1, 1), {5, 31, 7, 3}, {33, 33, 33, 2}, {70, 40, 35, 5}, {40, 9, 64, 33}}) {
    Heads heads(rows, tasks, features, actions, rows % 2 ? td::kBits : td::kFloat32);
    const Batch& batch = heads.batch;
    const int task_tiles = (tasks + kTile - 1) / kTile, feature_tiles = (features + kTile - 1) / kTile;
    std::vector<int32_t> order(static_cast<size_t>(rows), -1), offsets(size_t(actions) + 2, -1), active(static_cast<size_t>(tasks));
    std::vector<float> error(size_t(rows * tasks), -1), by_feature(heads.current.size(), -1), by_weight(heads.weights.size(), -1);
    std::vector<float> magnitude(active.size()), mean(heads.mean.size());
    std::vector<double> losses(size_t(rows * task_tiles), -1), row_losses(static_cast<size_t>(rows), -1);
    const Arguments arguments = {heads.current.data(), heads.next.data(), heads.weights.data(), heads.mean.data(), heads.taken.data(),
        batch.done.data(), batch.sets, by_feature.data(), by_weight.data(), error.data(), losses.data(), order.data(), offsets.data(), rows,
        features, tasks, actions, Batch::kDiscount, Batch::kHeight, 1.0f / float(rows * tasks)};
    const unsigned row_tiles = unsigned((rows + kTile - 1) / kTile + actions + 1);
    simt::launch(auxcore_pvn_group, {blocks(size_t(std::max(rows, actions + 2)), kGroupThreads), kGroupThreads, 0}, heads.taken.data(),
        rows,
        actions, order.data(), offsets.data());
    simt::launch(auxcore_pvn_errors, {row_tiles * unsigned(task_tiles), kThreads, 0}, arguments, task_tiles);
    simt::launch(auxcore_pvn_row_losses, {blocks(size_t(rows), kThreads), kThreads, 0}, losses.data(), rows, task_tiles, 0.5 / tasks,
        row_losses.data());
    simt::launch(auxcore_pvn_feature_gradient, {row_tiles * unsigned(feature_tiles), kThreads, 0}, arguments, feature_tiles);
    simt::launch(auxcore_pvn_weight_gradient, {unsigned(actions * task_tiles * feature_tiles), kThreads, 0}, arguments, task_tiles,
        feature_tiles);
    simt::launch(auxcore_pvn_columns, {blocks(size_t(tasks), td::kColumns), kThreads, 0}, arguments, active.data(), magnitude.data());
    simt::launch(auxcore_pvn_mean, {blocks(mean.size(), kThreads), kThreads, 0}, heads.weights.data(), tasks, actions, features,
        mean.data());

    std::vector<int32_t> sorted(static_cast<size_t>(rows));
    for (int row = 0; row < rows; ++row)
      sorted[size_t(row)] = row;
    const auto key = [&](int row) { return heads.has_action(row) ? heads.taken[size_t(row)] : actions; };
    std::sort(sorted.begin(), sorted.end(), [&](int left, int right) { return std::pair(key(left), left) < std::pair(key(right), right); });
    same("order", order, sorted, 0);
    for (int action = 0; action < actions + 2; ++action)
      CHECK(offsets[size_t(action)] == std::count_if(sorted.begin(), sorted.end(), [&](int row) { return key(row) < action; }));

    std::vector<double> expected_losses(row_losses.size()), expected_by_feature(by_feature.size()), expected_by_weight(by_weight.size());
    std::vector<int32_t> expected_active(active.size());
    std::vector<double> expected_magnitude(active.size());
    for (int row = 0; row < rows; ++row)
      for (int task = 0; task < tasks; ++task) {
        const float* const own = heads.current.data() + row * features;
        const double value = Heads::dot(heads.next.data() + row * features, heads.mean.data() + task * features, features);
        double off = NAN;
        if (heads.has_action(row)) {
          off = Heads::dot(own, heads.weights.data() + heads.head(task, row), features) - batch.target(row, task, value);
          for (int f = 0; f < features; ++f)
            expected_by_weight[heads.head(task, row) + size_t(f)] += off / rows / tasks * double{own[f]};
        }
        for (int f = 0; f < features; ++f)
          expected_by_feature[size_t(row * features + f)] +=
              heads.has_action(row) ? off / rows / tasks * double{heads.weights[heads.head(task, row) + size_t(f)]} : double{NAN};
        expected_losses[size_t(row)] += off * off / 2 / tasks;
        expected_active[size_t(task)] += int(batch.indicator(row, task));
        expected_magnitude[size_t(task)] += std::fabs(off) / rows;
      }
    same("row losses", row_losses, expected_losses, 1e-3);
    same("by feature", by_feature, expected_by_feature, 1e-5);
    same("by weight", by_weight, expected_by_weight, 1e-5);
    same("active", active, expected_active, 0);
    same("mean errors", magnitude, expected_magnitude, 1e-4);
    for (int task = 0; task < tasks; ++task)
      for (int f = 0; f < features; ++f) {
        double sum = 0;
        for (int action = 0; action < actions; ++action)
          sum += double{heads.weights[size_t((task * actions + action) * features + f)]};
        CHECK(close(mean[size_t(task * features + f)], sum / actions, 1e-6));
      }
  }
}

}  // namespace
}  // namespace auxcore

int main() {
  using namespace auxcore;
  for (uint32_t order : {0u, 1u, 4711u}) {
    simt::set_run_order(order);
    random_state = order + 1;
    indicator_td_agrees();
    calibration_agrees();
    tabular_td_agrees();
    sweeps_agree();
    heads_agree();
  }
  return test::result();
}
