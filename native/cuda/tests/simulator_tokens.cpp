// The kernels of token pruning in the simulator, in three orders of threads: segments, rows and grids of lengths around the edges of warps
// and blocks, against formulas.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "../token_pruning/token_compact.cuh"
#include "../token_pruning/token_pool.cuh"
#include "../token_pruning/token_select.cuh"
#include "check.h"
#include "launch.h"
#include "random.h"

namespace auxcore {

namespace token_select {
extern "C" void auxcore_token_select(Arguments arguments);
extern "C" void auxcore_token_rank(Arguments arguments);
extern "C" void auxcore_token_emit(Arguments arguments);
}  // namespace token_select

namespace token_compact {
extern "C" void auxcore_token_rows(Table table);
}  // namespace token_compact

namespace token_pool {
extern "C" void auxcore_token_pool(Arguments arguments, int32_t is_single);
extern "C" void auxcore_token_pool_backward(Arguments arguments, int32_t is_single);
}  // namespace token_pool

namespace {

using test::next_random;

/// Ties, both zeros, NaN and infinities among them.
float random_score() {
  switch (next_random() % 12) {
    case 0:
      return NAN;
    case 1:
      return next_random() % 2 == 0 ? 0.0f : -0.0f;
    case 2:
      return next_random() % 4 == 0 ? INFINITY : -INFINITY;
    case 3:
      return 1e-42f * float(next_random() % 5);
    default:
      return float(int(next_random() % 257) - 100) / 64.0f;
  }
}

/// What each segment keeps, by a sort.
std::vector<std::vector<int32_t>> selected(const std::vector<float>& scores, const std::vector<uint8_t>& always,
    const std::vector<int32_t>& bounds, const tokens::Budget& budget) {
  std::vector<std::vector<int32_t>> all;
  for (size_t b = 0; b + 1 < bounds.size(); ++b) {
    std::vector<int32_t> order(size_t(bounds[b + 1] - bounds[b]));
    std::iota(order.begin(), order.end(), bounds[b]);
    const auto is_always = [&](int32_t token) { return !always.empty() && always[size_t(token)] != 0; };
    std::sort(order.begin(), order.end(), [&](int32_t left, int32_t right) {
      if (is_always(left) != is_always(right))
        return is_always(left);
      const float a = is_always(left) ? 0 : scores[size_t(left)], c = is_always(right) ? 0 : scores[size_t(right)];
      if (std::isnan(a) != std::isnan(c))
        return std::isnan(c);
      return a > c || (!(a < c) && left < right);
    });
    const auto kept = [&](auto&& predicate) { return int32_t(std::count_if(order.begin(), order.end(), predicate)); };
    int32_t count = 0;
    if (budget.rule == tokens::kCount)
      count = budget.count;
    else if (budget.rule == tokens::kRatio)
      count = int32_t(std::floor(budget.value * double(order.size()) + 0.5));
    else
      count = kept([&](int32_t token) { return is_always(token) || scores[size_t(token)] >= budget.value; });
    const int32_t length = int32_t(order.size());
    count = std::max(std::min(budget.minimum, length), std::min({count, budget.maximum, length}));
    order.resize(size_t(std::max(count, kept(is_always))));
    std::sort(order.begin(), order.end());
    all.push_back(order);
  }
  return all;
}

void a_selection_is_the_beginning_of_the_order() {
  using namespace token_select;
  const tokens::Budget budgets[] = {{0, tokens::kCount, 0, 0, INT32_MAX}, {0, tokens::kCount, 1, 0, INT32_MAX},
      {0, tokens::kCount, 33, 0, INT32_MAX}, {0.5, tokens::kRatio, 0, 0, INT32_MAX}, {1, tokens::kRatio, 0, 3, 40},
      {0.25, tokens::kThreshold, 0, 2, INT32_MAX}, {0, tokens::kThreshold, 0, 0, 20}};
  for (const auto& bounds : std::vector<std::vector<int32_t>>{{0, 1}, {0, 31}, {0, 32}, {0, 33}, {0, 1023}, {0, 1024}, {0, 1025},
           {0, 5, 5, 70, 102}, {0, 2050, 2051}})
    for (const tokens::Budget& budget : budgets) {
      const size_t n = size_t(bounds.back()), segments = bounds.size() - 1;
      std::vector<float> scores(n);
      for (float& score : scores)
        score = random_score();
      std::vector<uint8_t> always(next_random() % 2 == 0 ? 0 : n);
      for (uint8_t& flag : always)
        flag = next_random() % 11 == 0;
      std::vector<int32_t> indices(n, -7), offsets(segments + 1, -7), slots(n, -7), nan_counts(segments, -7);
      std::vector<tokens::Cut> cuts(segments);
      const bool needs_cuts = segments > 1 && (!always.empty() || budget.rule >= tokens::kThreshold);
      const Arguments arguments = {scores.data(), bounds.data(), always.empty() ? nullptr : always.data(), indices.data(), offsets.data(),
          slots.data(), nan_counts.data(), cuts.data(), budget, tokens::kFloat32, int32_t(n), int32_t(segments), int32_t(n)};
      const simt::Shape shape = {unsigned(segments), tokens::kRankThreads, 0};
      if (needs_cuts) {
        simt::launch(auxcore_token_rank, shape, arguments);
        simt::launch(auxcore_token_emit, shape, arguments);
      } else {
        simt::launch(auxcore_token_select, shape, arguments);
      }
      const auto expected = selected(scores, always, bounds, budget);
      int32_t place = 0;
      std::vector<int32_t> inverse(n, -1);
      for (size_t b = 0; b < segments; ++b) {
        CHECK(offsets[b] == place, "%zu tokens, rule %d: %d, not %d", n, budget.rule, offsets[b], place);
        for (const int32_t token : expected[b]) {
          CHECK(indices[size_t(place)] == token, "%zu tokens, rule %d, place %d: %d, not %d", n, budget.rule, place, indices[size_t(place)],
              token);
          inverse[size_t(token)] = place++;
        }
        const auto nan = std::count_if(scores.begin() + bounds[b], scores.begin() + bounds[b + 1], [](float s) { return std::isnan(s); });
        CHECK(nan_counts[b] == nan);
      }
      CHECK(offsets[segments] == place && slots == inverse, "%zu tokens, rule %d", n, budget.rule);
      CHECK(std::all_of(indices.begin() + place, indices.end(), [](int32_t index) { return index == -7; }), "behind the kept ones");
    }
}

/// A table of one tensor of one strip.
token_compact::Table table_of(const token_compact::Selection& selection, const std::vector<uint8_t>& source,
    std::vector<uint8_t>& destination, int row_bytes, int source_tokens, int destination_tokens, int vector_bytes, bool clears_rest) {
  using namespace token_compact;
  Table table = {};
  table.selection = selection;
  table.group_count = 1;
  Group& group = table.groups[0];
  group.row_bytes = group.source_step = group.destination_step = row_bytes;
  for (int i = 0; i < kDimensions; ++i)
    group.sizes[i] = 1;
  group.strips = 1;
  group.source_tokens = source_tokens;
  group.destination_tokens = destination_tokens;
  group.vector_bytes = int8_t(vector_bytes);
  group.segment_dimension = -1;
  group.clears_rest = clears_rest;
  group.is_in_place = source.data() == destination.data();
  group.lanes = 1;
  const int vectors = row_bytes / vector_bytes;
  while (group.lanes < 32 && group.lanes < vectors)
    group.lanes = int16_t(group.lanes * 2);
  const int rows = kTogether * (kThreads / group.lanes);
  group.parts = group.is_in_place ? (vectors + group.lanes - 1) / group.lanes : (destination_tokens + rows - 1) / rows;
  table.tensors[0] = {reinterpret_cast<uint64_t>(source.data()), reinterpret_cast<uint64_t>(destination.data())};
  return table;
}

void rows_go_where_the_map_says() {
  using namespace token_compact;
  for (const int vector_bytes : {1, 2, 4, 8, 16})
    for (const int vectors : {1, 3, 31, 32, 33, 70})
      for (const int n : {1, 2, 32, 33, 257, 1100}) {
        const int row_bytes = vectors * vector_bytes;
        if (n * row_bytes > 1 << 17)
          continue;
        std::vector<int32_t> map, slots(size_t(n), -1);
        for (int i = 0; i < n; ++i)
          if (next_random() % 3 == 0) {
            slots[size_t(i)] = int32_t(map.size());
            map.push_back(i);
          }
        const int kept = int(map.size()), room = kept + 3;
        std::vector<uint8_t> source(size_t(n * row_bytes)), destination(size_t(room * row_bytes), 0x5a), spread(source.size(), 0x5a);
        for (uint8_t& byte : source)
          byte = uint8_t(next_random());
        const int32_t begins[] = {0, kept}, all[] = {0, n};
        const std::vector<uint8_t> before = source;
        for (const bool clears : {false, true}) {
          const Table forward =
              table_of({map.data(), begins, all, kept, 1}, source, destination, row_bytes, n, room, vector_bytes, clears);
          simt::launch(auxcore_token_rows, {unsigned(forward.groups[0].parts), kThreads, 0}, forward);
          for (int j = 0; j < room; ++j)
            for (int k = 0; k < row_bytes; ++k) {
              const uint8_t expected = j < kept ? source[size_t(map[size_t(j)] * row_bytes + k)] : clears ? 0 : 0x5a;
              if (destination[size_t(j * row_bytes + k)] != expected) {
                CHECK(false, "row %d of %d of %d x %d bytes", j, kept, vectors, vector_bytes);
                return;
              }
            }
        }
        const Table backward = table_of({slots.data(), all, begins, n, 1}, destination, spread, row_bytes, room, n, vector_bytes, true);
        simt::launch(auxcore_token_rows, {unsigned(backward.groups[0].parts), kThreads, 0}, backward);
        for (int i = 0; i < n; ++i)
          for (int k = 0; k < row_bytes; ++k)
            CHECK(spread[size_t(i * row_bytes + k)] == (slots[size_t(i)] < 0 ? 0 : source[size_t(i * row_bytes + k)]));
        const Table in_place = table_of({map.data(), begins, all, kept, 1}, source, source, row_bytes, n, n, vector_bytes, false);
        simt::launch(auxcore_token_rows, {unsigned(in_place.groups[0].parts), kThreads, 0}, in_place);
        for (int j = 0; j < n; ++j) {
          const int from = j < kept ? map[size_t(j)] : j;
          CHECK(std::memcmp(source.data() + j * row_bytes, before.data() + from * row_bytes, size_t(row_bytes)) == 0,
              "in place, row %d of %d of %d x %d bytes", j, kept, vectors, vector_bytes);
        }
      }
}

void cells_are_means() {
  using namespace token_pool;
  for (const Shape& shape : {Shape{5, 7, 3, 3, 2, 3}, {5, 7, 2, 3, 0, 0}, {1, 1, 1, 1, 4, 4}, {9, 4, 3, 1, 4, 9}})
    for (const int channels : {1, 4, 20, 256})
      for (const bool is_single : {true, false}) {
        if (!is_single && channels % 4 != 0)
          continue;
        const int all = shape.height * shape.width, few = shape.rows * shape.columns, images = 2;
        std::vector<float> given(size_t(images * all * channels)), pooled(size_t(images * few * channels)), spread(given.size());
        for (float& value : given)
          value = float(int(next_random() % 257) - 128);
        const int vector = is_single ? 1 : 4;
        const auto blocks = [&](size_t units) { return unsigned((units + kThreads - 1) / kThreads); };
        const size_t units = pooled.size() / size_t(vector), back = spread.size() / size_t(vector);
        simt::launch(auxcore_token_pool, {blocks(units), kThreads, 0},
            Arguments{given.data(), pooled.data(), int64_t(units), channels / vector, tokens::kFloat32, shape}, int32_t(is_single));
        simt::launch(auxcore_token_pool_backward, {blocks(back), kThreads, 0},
            Arguments{pooled.data(), spread.data(), int64_t(back), channels / vector, tokens::kFloat32, shape}, int32_t(is_single));
        const auto side = [](int cell, int count, int cells, int window) {
          return window > 0 ? std::pair(cell * window, std::min(count, (cell + 1) * window))
                            : std::pair(cell * count / cells, ((cell + 1) * count + cells - 1) / cells);
        };
        std::vector<double> expected(spread.size());
        for (int image = 0; image < images; ++image)
          for (int i = 0; i < shape.rows; ++i)
            for (int j = 0; j < shape.columns; ++j)
              for (int c = 0; c < channels; ++c) {
                const auto [top, bottom] = side(i, shape.height, shape.rows, shape.window_height);
                const auto [left, right] = side(j, shape.width, shape.columns, shape.window_width);
                const int count = (bottom - top) * (right - left);
                const size_t cell = size_t(((image * shape.rows + i) * shape.columns + j) * channels + c);
                double sum = 0;
                for (int y = top; y < bottom; ++y)
                  for (int x = left; x < right; ++x) {
                    const size_t token = size_t(((image * shape.height + y) * shape.width + x) * channels + c);
                    sum += given[token];
                    expected[token] += double(pooled[cell]) / count;
                  }
                CHECK(pooled[cell] == float(sum) / float(count), "cell %d, %d", i, j);
              }
        for (size_t at = 0; at < spread.size(); ++at)
          CHECK(std::fabs(spread[at] - expected[at]) <= 1e-4, "token %zu: %g, not %g", at, spread[at], expected[at]);
      }
}

}  // namespace
}  // namespace auxcore

int main() {
  using namespace auxcore;
  for (const uint32_t order : {0u, 1u, 12345u}) {
    simt::set_run_order(order);
    a_selection_is_the_beginning_of_the_order();
    rows_go_where_the_map_says();
    cells_are_means();
  }
  return test::result();
}
