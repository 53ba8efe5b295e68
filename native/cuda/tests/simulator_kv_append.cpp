// The kernels of KvAppend and KvPredictWrite against their formula in plain loops, and its bytes against the formats of kv_formulas.h.
#include "../device/device.cuh"
#include "../kv_approximation/kv_append.cuh"
#include "../kv_approximation/kv_predict_write.cuh"

#include "check.h"
#include "kv_formulas.h"

namespace auxcore {

namespace kv_append {
extern "C" void auxcore_kv_append(Arguments arguments);
extern "C" void auxcore_kv_append_leaving(Arguments arguments);
}  // namespace kv_append

namespace kv_predict_write {
extern "C" void auxcore_kv_predict_layers(Arguments arguments);
}  // namespace kv_predict_write

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
    double lanes[32] = {};
    for (std::size_t i = 0; i < row.size(); ++i)
      lanes[i % 32] += double{row[i]} * double{row[i]};
    for (int apart = 16; apart > 0; apart /= 2)
      for (int i = 0; i < apart; ++i)
        lanes[i] += lanes[i + apart];
    const auto inverse = float(1 / std::sqrt(lanes[0] / double(row.size()) + epsilon));
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
          return kv::TokenRows{reinterpret_cast<uint64_t>(of.data()), int64_t{heads} * d * 4, nullptr, weights};
        };
        arguments.query = rows(query, kQueries, has_norm ? norm.data() : nullptr);
        arguments.keys = rows(keys, kHeads, has_norm ? norm.data() : nullptr);
        arguments.values = rows(values, kHeads, nullptr);
        arguments.rotated_query = reinterpret_cast<uint64_t>(rotated.data());
        arguments.query_heads = kQueries;
        arguments.rotated_step = int64_t{kQueries} * d * 4;
        arguments.tokens.slots = slots.data();
        arguments.tokens.positions = positions.data();
        arguments.tokens.norm_epsilon = 1e-5;
        arguments.tokens.count = kTokens;
        arguments.tokens.type = kv::kFloat32;
        arguments.tokens.pairs = pairs;
        arguments.tokens.is_in_pairs = is_in_pairs;
        for (int pair = 0; pair < pairs; ++pair)
          arguments.tokens.frequencies[pair] = std::pow(10000.0, -double(pair) / pairs);
        simt::launch(auxcore_kv_append, {unsigned(kTokens * kv::blocks_of_token(kQueries + 2 * kHeads)), kv::kHeadThreads, 0}, arguments);

        for (int token = 0; token < kTokens; ++token) {
          const auto head_of = [&](const std::vector<float>& of, int heads, int head, bool is_value) {
            const auto from = of.begin() + (token * heads + head) * d;
            return transformed({from, from + d}, has_norm && !is_value ? norm.data() : nullptr, 1e-5, is_value ? 0 : pairs, is_in_pairs,
                positions[size_t(token)], arguments.tokens.frequencies);
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

/// A cache in KIVI-4 of two sequences with two heads, which some tokens are appended to.
struct Ringed {
  static constexpr int kBatch = 2, kHeads = 2, kCapacity = 128, kWindow = 5, kRing = kWindow + 32;

  int d;
  std::vector<uint8_t> bytes[2];  // of keys, of values
  std::vector<float> rings[2];

  explicit Ringed(int d_) : d(d_) {
    for (int which = 0; which < 2; ++which) {
      bytes[which].assign(stored_bytes(AUXCORE_KV_KIVI4, size_t(kBatch * kHeads * kCapacity * d)), 0xa5);
      rings[which].assign(size_t(kBatch * kHeads * kRing * d), -7.0f);
    }
  }

  bool operator==(const Ringed& other) const {
    return bytes[0] == other.bytes[0] && bytes[1] == other.bytes[1] && rings[0] == other.rings[0] && rings[1] == other.rings[1];
  }

  kv::Cache cache() {
    const int64_t row = d / 32 * 20;
    const auto plane = [&](int which) {
      return kv::Plane{reinterpret_cast<uint64_t>(bytes[which].data()), row * kHeads * kCapacity, row * kCapacity, nullptr, 0,
          AUXCORE_KV_KIVI4, int32_t(row), kBatch, rings[which].data(), kRing};
    };
    return {plane(0), plane(1), nullptr, nullptr, 0, kBatch, kHeads, d, kCapacity, 0};
  }

  /// One row, as the formula has it: into the ring, and what leaves the window then.
  void add(bool is_value, int sequence, int head, int slot, const std::vector<float>& row) {
    const auto first = size_t(sequence * kHeads + head), wide = size_t(d);
    std::vector<float>& ring = rings[is_value];
    const auto at = [&](int position) { return (first * kRing + size_t(position % kRing)) * wide; };
    std::copy(row.begin(), row.end(), ring.begin() + std::ptrdiff_t(at(slot)));
    const int left = slot + 1 - kWindow;
    if (left <= 0 || (!is_value && left % 32 != 0))
      return;
    const int from = is_value ? left - 1 : left - 32;
    uint8_t* const to = &bytes[is_value][(first * kCapacity + size_t(from)) * size_t(d / 32 * 20)];
    std::vector<float> block;  // positions side by side
    for (int position = from; position < left; ++position)
      block.insert(block.end(), ring.begin() + std::ptrdiff_t(at(position)), ring.begin() + std::ptrdiff_t(at(position) + wide));
    for (std::size_t group = 0; group < block.size() / 32; ++group)
      store_kivi(&block[is_value ? group * 32 : group], is_value ? 1 : wide, to + group * 20);
  }
};

/// However tokens come, together or one by one, and in whatever order of their sequences, a cache has the bytes of the formula.
void rings_agree() {
  using namespace kv_append;
  constexpr int kEach = 120;  // tokens of a sequence: more than the ring has
  for (const int d : {32, 96})
    for (const bool interleaved : {false, true}) {
      const auto size = [&](int rows) { return std::size_t(rows * d); };
      const int each = interleaved ? 131 : kEach;  // the last have no place
      const std::vector<float> keys = numbers(size(2 * each * Ringed::kHeads), 2), values = numbers(size(2 * each * Ringed::kHeads), 3),
                               norm = numbers(size(1), 4);
      Arguments arguments = {};
      arguments.tokens.norm_epsilon = 1e-5;
      arguments.tokens.type = kv::kFloat32;
      arguments.tokens.pairs = d / 2;
      for (int pair = 0; pair < d / 2; ++pair)
        arguments.tokens.frequencies[pair] = std::pow(10000.0, -2.0 * pair / d);
      Ringed expected(d);
      for (int sequence = 0; sequence < 2; ++sequence)
        for (int slot = 0; slot < std::min(each, Ringed::kCapacity); ++slot)
          for (int head = 0; head < Ringed::kHeads; ++head) {
            const auto from = std::ptrdiff_t(size((sequence * each + slot) * Ringed::kHeads + head));
            expected.add(false, sequence, head, slot,
                transformed({keys.begin() + from, keys.begin() + from + d}, norm.data(), 1e-5, d / 2, false, 3 * slot,
                    arguments.tokens.frequencies));
            expected.add(true, sequence, head, slot, {values.begin() + from, values.begin() + from + d});
          }
      for (const std::vector<int>& calls : {std::vector<int>{each}, {1, 4, 32, 33, 7, each - 77}, std::vector<int>(size_t(each), 1)}) {
        Ringed actual(d);
        int begin = 0;
        for (const int count : calls) {
          std::vector<float> own[2];
          std::vector<int32_t> sequences, slots, positions;
          for (int i = 0; i < 2 * count; ++i) {
            // Interleaved: runs of three of one sequence, then of the other.
            const int sequence = !interleaved ? i / count : count % 3 == 0 ? i / 3 % 2 : i % 2;
            const int before = int(std::count(sequences.begin(), sequences.end(), sequence));
            sequences.push_back(sequence);
            slots.push_back(begin + before);
            positions.push_back(3 * slots.back());
            const auto from = std::ptrdiff_t(size((sequence * each + slots.back()) * Ringed::kHeads));
            own[0].insert(own[0].end(), keys.begin() + from, keys.begin() + from + 2 * d);
            own[1].insert(own[1].end(), values.begin() + from, values.begin() + from + 2 * d);
          }
          arguments.cache = actual.cache();
          arguments.keys = {reinterpret_cast<uint64_t>(own[0].data()), int64_t{Ringed::kHeads} * d * 4, nullptr, norm.data()};
          arguments.values = {reinterpret_cast<uint64_t>(own[1].data()), int64_t{Ringed::kHeads} * d * 4, nullptr, nullptr};
          arguments.tokens.sequences = interleaved ? sequences.data() : nullptr;
          arguments.tokens.slots = slots.data();
          arguments.tokens.positions = positions.data();
          arguments.tokens.count = 2 * count;
          simt::launch(auxcore_kv_append_leaving,
              {unsigned(2 * count * Ringed::kHeads), kv::kHeadThreads, size_t(32 * (d + 1)) * sizeof(float)}, arguments);
          simt::launch(auxcore_kv_append, {unsigned(2 * count * kv::blocks_of_token(2 * Ringed::kHeads)), kv::kHeadThreads, 0}, arguments);
          begin += count;
        }
        CHECK(actual == expected, "heads of %d, %zu calls, interleaved %d", d, calls.size(), int(interleaved));
      }
      // Sequences and slots that are none write nothing.
      Ringed untouched(d);
      const std::vector<int32_t> sequences = {-1, 2, 0, 1}, slots = {36, 36, -1, 1 << 30};
      arguments.cache = untouched.cache();
      arguments.keys.first = reinterpret_cast<uint64_t>(keys.data());
      arguments.values.first = reinterpret_cast<uint64_t>(values.data());
      arguments.tokens.sequences = sequences.data();
      arguments.tokens.slots = arguments.tokens.positions = slots.data();
      arguments.tokens.count = 4;
      simt::launch(auxcore_kv_append_leaving, {8, kv::kHeadThreads, size_t(32 * (d + 1)) * sizeof(float)}, arguments);
      simt::launch(auxcore_kv_append, {unsigned(4 * kv::blocks_of_token(2 * Ringed::kHeads)), kv::kHeadThreads, 0}, arguments);
      CHECK(untouched == Ringed(d), "heads of %d", d);
    }
}

/// A layer of KvPredictWrite, of one sequence.
struct PredictedLayer {
  static constexpr int kCapacity = 9;

  int format, heads, d;
  bool has_norm, has_bias;
  std::vector<float> keys, values, key_bias, value_bias, norm;
  std::vector<uint8_t> key_bytes, value_bytes;

  PredictedLayer(int format_, int heads_, int d_, int tokens, bool has_norm_, bool has_bias_, uint32_t seed)
      : format(format_), heads(heads_), d(d_), has_norm(has_norm_), has_bias(has_bias_), keys(numbers(size(tokens * heads), seed)),
        values(numbers(size(tokens * heads), seed + 1)), key_bias(numbers(size(heads), seed + 2)),
        value_bias(numbers(size(heads), seed + 3)), norm(numbers(size(1), seed + 4)),
        key_bytes(stored_bytes(format, size(heads * kCapacity)), 0xa5), value_bytes(key_bytes) {}

  std::size_t size(int rows) const { return std::size_t(rows * d); }

  kv_predict_write::Layer arguments(int64_t first_block) {
    const auto row = int64_t(stored_bytes(format, size(1)));
    const auto plane = [&](std::vector<uint8_t>& bytes) {
      return kv::Plane{
          reinterpret_cast<uint64_t>(bytes.data()), row * heads * kCapacity, row * kCapacity, nullptr, 0, format, int32_t(row), 1};
    };
    const auto rows = [&](const std::vector<float>& of, const std::vector<float>& bias, bool is_normed) {
      return kv::TokenRows{reinterpret_cast<uint64_t>(of.data()), int64_t{heads} * d * 4, has_bias ? bias.data() : nullptr,
          is_normed ? norm.data() : nullptr};
    };
    return {{plane(key_bytes), plane(value_bytes), nullptr, nullptr, 0, 1, heads, d, kCapacity, 0}, rows(keys, key_bias, has_norm),
        rows(values, value_bias, false), first_block};
  }

  /// What a token's head is before it is stored.
  std::vector<float> expected(bool is_value, int token, int head, int pairs, int position, const double* frequencies) const {
    const std::vector<float>&of = is_value ? values : keys, &bias = is_value ? value_bias : key_bias;
    std::vector<float> row(size(1));
    for (std::size_t i = 0; i < row.size(); ++i)
      row[i] = of[size(token * heads + head) + i] + (has_bias ? bias[size(head) + i] : 0.0f);
    return transformed(row, has_norm && !is_value ? norm.data() : nullptr, 1e-5, is_value ? 0 : pairs, false, position, frequencies);
  }
};

void predictions_agree() {
  using namespace kv_predict_write;
  constexpr int kTokens = 3;
  const std::vector<int32_t> slots = {2, 8, 9}, positions = {2, 400, 9};
  for (const int d : {32, 96}) {
    std::vector<PredictedLayer> layers;
    for (int i = 0; i < kLayers; ++i)  // up to three blocks a token
      layers.emplace_back(i % 3 == 0 ? AUXCORE_KV_F32 : i % 3 == 1 ? AUXCORE_KV_Q8_0 : AUXCORE_KV_BF16, 1 + i % 9, d, kTokens, i % 2 == 0,
          i % 4 != 3, uint32_t(10 * i + 1));
    Arguments arguments = {};
    int64_t blocks = 0;
    for (PredictedLayer& layer : layers) {
      arguments.layers[arguments.layer_count++] = layer.arguments(blocks);
      blocks += kTokens * kv::blocks_of_token(2 * layer.heads);
    }
    arguments.tokens.slots = slots.data();
    arguments.tokens.positions = positions.data();
    arguments.tokens.norm_epsilon = 1e-5;
    arguments.tokens.count = kTokens;
    arguments.tokens.type = kv::kFloat32;
    arguments.tokens.pairs = d == 96 ? 8 : d / 2;
    for (int pair = 0; pair < arguments.tokens.pairs; ++pair)
      arguments.tokens.frequencies[pair] = std::pow(10000.0, -double(pair) / arguments.tokens.pairs);
    simt::launch(auxcore_kv_predict_layers, {unsigned(blocks), kv::kHeadThreads, 0}, arguments);

    for (const PredictedLayer& layer : layers) {
      std::vector<uint8_t> keys(layer.key_bytes.size(), 0xa5), values(keys);
      const std::size_t row = stored_bytes(layer.format, std::size_t(d));
      for (int token = 0; token < kTokens; ++token)
        for (int head = 0; head < layer.heads && slots[size_t(token)] < PredictedLayer::kCapacity; ++head) {
          const std::size_t at = row * std::size_t(head * PredictedLayer::kCapacity + slots[size_t(token)]);
          const auto add = [&](bool is_value, std::vector<uint8_t>& bytes) {
            const std::vector<float> right = layer.expected(
                is_value, token, head, arguments.tokens.pairs, positions[size_t(token)], arguments.tokens.frequencies);
            store(layer.format, right, 1, &bytes[at]);
          };
          add(false, keys);
          add(true, values);
        }
      CHECK(layer.key_bytes == keys, "keys in format %d, %d heads of %d", layer.format, layer.heads, d);
      CHECK(layer.value_bytes == values, "values in format %d, %d heads of %d", layer.format, layer.heads, d);
    }
  }
}

}  // namespace
}  // namespace auxcore

int main() {
  for (const uint32_t order : {0u, 1u, 4711u}) {
    simt::set_run_order(order);
    auxcore::append_agrees();
    auxcore::rings_agree();
    auxcore::predictions_agree();
  }
  return auxcore::test::result();
}
