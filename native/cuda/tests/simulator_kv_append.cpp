// The kernel of KvAppend against its formula in plain loops, and its bytes against the formats of kv_formulas.h.
#include "../device/device.cuh"
#include "../kv_approximation/kv_append.cuh"

#include "check.h"
#include "kv_formulas.h"

namespace auxcore {

namespace kv_append {
extern "C" void auxcore_kv_append(Arguments arguments);
}  // namespace kv_append

namespace {

using namespace test;

std::vector<float> numbers(std::size_t count, uint32_t seed) {
  std::vector<float> values(count);
  for (float& value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = float(int(seed >> 8 & 0xffff) - 0x8000) / 16384.0f;
  }
  return values;
}

/// Norm and rotation of a head, rounded as the documentation says.
std::vector<float> transformed(std::vector<float> row, const float* norm, double epsilon, int pairs, bool is_in_pairs, int position,
    const double* frequencies) {
  if (norm != nullptr) {
    double lanes[32] = {}, squares = 0;
    for (std::size_t i = 0; i < row.size(); ++i)
      lanes[i % 32] += double{row[i]} * double{row[i]};
    for (const double lane : lanes)
      squares += lane;
    const auto inverse = float(1 / std::sqrt(squares / double(row.size()) + epsilon));
    for (std::size_t i = 0; i < row.size(); ++i)
      row[i] = row[i] * inverse * norm[i];
  }
  for (int pair = 0; pair < pairs; ++pair) {
    const auto first = std::size_t(is_in_pairs ? 2 * pair : pair), second = std::size_t(is_in_pairs ? 2 * pair + 1 : pairs + pair);
    const auto cosine = float(std::cos(position * frequencies[pair])), sine = float(std::sin(position * frequencies[pair]));
    const volatile float ac = row[first] * cosine, bs = row[second] * sine, bc = row[second] * cosine, as = row[first] * sine;
    row[first] = ac - bs;
    row[second] = bc + as;
  }
  return row;
}

void append_agrees() {
  using namespace kv_append;
  for (const int format : kStoredFormats)
    for (const int d : {32, 64, 80, 96, 256})
      for (const bool is_in_pairs : {false, true}) {
        if (d % int(group_size(format)) != 0)
          continue;
        constexpr int kTokens = 6, kBatch = 2, kQueries = 6, kHeads = 2, kCapacity = 9;
        const bool has_norm = d != 64;
        const int pairs = d == 96 ? 0 : d == 80 ? 16 : d / 2;
        const auto size = [&](int rows) { return std::size_t(rows * d); };
        const std::vector<float> query = numbers(size(kTokens * kQueries), 1), keys = numbers(size(kTokens * kHeads), 2),
                                 values = numbers(size(kTokens * kHeads), 3), norm = numbers(size(1), 4);
        const std::vector<int32_t> slots = {0, 3, 8, 1, 9, -1}, positions = {0, 7, 100'000, 1, 2, 1 << 30};
        const std::size_t row = stored_bytes(format, size_t(d));
        std::vector<uint8_t> cache[2] = {std::vector<uint8_t>(row * kBatch * kHeads * kCapacity, 0xa5), {}};
        cache[1] = cache[0];
        std::vector<uint8_t> expected[2] = {cache[0], cache[0]};
        std::vector<float> rotated(query.size());
        const float scale = format == AUXCORE_KV_E4M3 ? 0.05f : 1.0f;
        Arguments arguments = {};
        const auto plane = [&](std::vector<uint8_t>& bytes) {
          return kv::Plane{reinterpret_cast<uint64_t>(bytes.data()), int64_t(row) * kHeads * kCapacity, int64_t(row) * kCapacity, &scale,
              format == AUXCORE_KV_E4M3 ? 1 : 0, format, int32_t(row), kBatch};
        };
        arguments.cache = {plane(cache[0]), plane(cache[1]), nullptr, nullptr, 0, kBatch, kHeads, d, kCapacity, 0};
        const auto rows = [&](const std::vector<float>& of, int heads, const float* weights) {
          return Rows{reinterpret_cast<uint64_t>(of.data()), int64_t{heads} * d * 4, weights, heads};
        };
        arguments.query = rows(query, kQueries, has_norm ? norm.data() : nullptr);
        arguments.keys = rows(keys, kHeads, has_norm ? norm.data() : nullptr);
        arguments.values = rows(values, kHeads, nullptr);
        arguments.rotated_query = reinterpret_cast<uint64_t>(rotated.data());
        arguments.rotated_step = int64_t{kQueries} * d * 4;
        arguments.slots = slots.data();
        arguments.positions = positions.data();
        arguments.norm_epsilon = 1e-5;
        arguments.tokens = kTokens;
        arguments.type = kFloat32;
        arguments.pairs = pairs;
        arguments.is_in_pairs = is_in_pairs;
        for (int pair = 0; pair < pairs; ++pair)
          arguments.frequencies[pair] = std::pow(10000.0, -double(pair) / pairs);
        simt::launch(auxcore_kv_append, {kTokens * ((kQueries + 2 * kHeads + kWarps - 1) / kWarps), kThreads, 0}, arguments);

        for (int token = 0; token < kTokens; ++token) {
          const auto head_of = [&](const std::vector<float>& of, int heads, int head, bool is_value) {
            const auto from = of.begin() + (token * heads + head) * d;
            return transformed({from, from + d}, has_norm && !is_value ? norm.data() : nullptr, 1e-5, is_value ? 0 : pairs, is_in_pairs,
                positions[size_t(token)], arguments.frequencies);
          };
          for (int head = 0; head < kQueries; ++head) {
            const std::vector<float> right = head_of(query, kQueries, head, false);
            CHECK(std::memcmp(right.data(), &rotated[size(token * kQueries + head)], size(4)) == 0,
                "format %d, heads of %d: query %d of %d", format, d, head, token);
          }
          const int slot = slots[size_t(token)];
          for (int head = 0; head < kHeads && slot >= 0 && slot < kCapacity; ++head) {
            const std::size_t at = row * std::size_t((token / (kTokens / kBatch) * kHeads + head) * kCapacity + slot);
            store(format, head_of(keys, kHeads, head, false), scale, &expected[0][at]);
            store(format, head_of(values, kHeads, head, true), scale, &expected[1][at]);
          }
        }
        CHECK(cache[0] == expected[0], "keys in format %d, heads of %d", format, d);
        CHECK(cache[1] == expected[1], "values in format %d, heads of %d", format, d);
      }
}

}  // namespace
}  // namespace auxcore

int main() {
  for (const uint32_t order : {0u, 1u, 4711u}) {
    simt::set_thread_order(order);
    auxcore::append_agrees();
  }
  return auxcore::test::result();
}
