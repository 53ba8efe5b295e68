// AdamWUpdate's and GradientNorm's kernels against the documented operations in plain loops: lengths, offsets, element types, numbers of
// averages, rules, clip factors, thread orders; bit for bit.
#include "../adamw/adamw_update.cuh"
#include "../device/device.cuh"

#include "check.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace auxcore::adamw {

extern "C" void auxcore_adamw_update(const Piece* pieces, const uint64_t* averages, const Settings* settings, const ema::Step* decays,
    const Norm* norm, uint32_t piece_count, int32_t average_count);
extern "C" void auxcore_adamw_set_settings(uint64_t* settings, SettingsBatch values, int32_t count);
extern "C" void auxcore_adamw_set_decays(ema::Step* decays, Decays values, int32_t count);
extern "C" void auxcore_adamw_norm_chunks(const Chunk* chunks, double* sums, uint32_t* counts, uint32_t chunk_count);
extern "C" void auxcore_adamw_norm_fold(
    const double* sums, const uint32_t* counts, Norm* norm, uint32_t chunk_count, double scale, double greatest, int32_t skip);

namespace {

constexpr int kLengths[] = {0, 1, 3, 4, 5, 127, 128, 129, 257, 1024, 1031};
constexpr float kUntouched = 12345;

const Settings kSettings[] = {
    {1, 0, 0.1f, 0.001f, 1e-8f, 1e-3f, 1e-4f},
    {-0.25, 0.01f, 0.75f, 0.5f, 1e-3f, 0.1f, 0},
};

uint32_t next_random(uint32_t& state) {
  state = state * 1664525u + 1013904223u;
  return state;
}

float random_float(uint32_t& state) { return float(int32_t(next_random(state))) * 0x1p-31f; }

int bytes_of(int type) { return type == kFloat32 ? 4 : 2; }

/// One tensor in a buffer that is aligned to 16 bytes and longer than it.
struct Buffer {
  int type = kFloat32, offset = 0;
  std::vector<float4> memory;

  Buffer(int type_, int offset_, int length) : type(type_), offset(offset_), memory(size_t(length + offset_ + 8) / 4 + 1) {
    for (float4& four : memory)
      four = {kUntouched, kUntouched, kUntouched, kUntouched};
  }

  uint64_t address(int element = 0) const {
    return reinterpret_cast<uint64_t>(memory.data()) + uint64_t((offset + element) * bytes_of(type));
  }
  char* at(int element) { return reinterpret_cast<char*>(memory.data()) + (offset + element) * bytes_of(type); }

  float get(int element) const { return const_cast<Buffer*>(this)->read(element); }
  float read(int element) {
    uint16_t bits;
    float value;
    if (type == kFloat32) {
      std::memcpy(&value, at(element), 4);
      return value;
    }
    std::memcpy(&bits, at(element), 2);
    return type == kFloat16 ? widen(float16{bits}) : widen(bfloat16{bits});
  }

  void set(int element, float value) {
    if (type == kFloat32) {
      std::memcpy(at(element), &value, 4);
      return;
    }
    const uint16_t bits = type == kFloat16 ? narrow_to(float16{}, value).bits : narrow_to(bfloat16{}, value).bits;
    std::memcpy(at(element), &bits, 2);
  }
};

float rounded(int type, float value) {
  return type == kFloat32 ? value : type == kFloat16 ? widen(narrow_to(float16{}, value)) : widen(narrow_to(bfloat16{}, value));
}

float average_of(double decay, float e, float p) {
  const float weight = float(1.0 - decay);
  if (decay == 1 || (decay != 0 && p == e))
    return e;
  return decay == 0 ? p : weight < 0.5f ? std::fma(weight, p - e, e) : std::fma(-float(decay), p - e, p);
}

/// A parameter with all that belongs to it.
struct Row {
  int length, settings;
  Buffer parameter, master, gradient, first, second;
  std::vector<Buffer> averages;

  Row(int parameter_type, int gradient_type, int length_, int offset, int other_offset, size_t average_count, uint32_t& random)
      : length(length_), settings(int(next_random(random) >> 31)), parameter(parameter_type, offset, length),
        master(kFloat32, other_offset, length), gradient(gradient_type, offset, length), first(kFloat32, offset, length),
        second(kFloat32, other_offset, length) {
    for (size_t k = 0; k < average_count; ++k)
      averages.emplace_back(kFloat32, offset, length);
    for (int i = 0; i < length; ++i) {
      const float value = random_float(random);
      parameter.set(i, value);
      // Most masters round to their parameter, and are not what it holds; some were left behind.
      master.set(i, next_random(random) % 8 == 0 ? random_float(random) : value);
      gradient.set(i, random_float(random) * 4);
      first.set(i, random_float(random));
      second.set(i, std::fabs(random_float(random)));
      for (Buffer& average : averages)
        average.set(i, next_random(random) % 8 == 0 ? parameter.get(i) : random_float(random));
    }
  }

  std::vector<const Buffer*> buffers() const {
    std::vector<const Buffer*> all = {&parameter, &gradient, &first, &second};
    if (parameter.type != kFloat32)
      all.push_back(&master);
    for (const Buffer& average : averages)
      all.push_back(&average);
    return all;
  }

  uint16_t head() const {
    for (uint16_t head = 0; head < kQuad && head < length; ++head) {
      bool aligned = true;
      for (const Buffer* buffer : buffers())
        aligned = aligned && buffer->address(head) % uint64_t(kQuad * bytes_of(buffer->type)) == 0;
      if (aligned)
        return head;
    }
    return kNoVectors;
  }

  Piece piece() const {
    return {parameter.address(), parameter.type == kFloat32 ? 0 : master.address(), gradient.address(), first.address(), second.address(),
        uint32_t(length), uint32_t(settings), head(), uint8_t(parameter.type), uint8_t(gradient.type), !averages.empty()};
  }

  /// What the documentation says of one element.
  void step(int i, const std::vector<double>& decays, double factor) {
    const Settings& s = kSettings[settings];
    float p = parameter.get(i), m = first.get(i), v = second.get(i);
    if (parameter.type != kFloat32 && rounded(parameter.type, master.get(i)) == p)
      p = master.get(i);
    const float g = std::fma(s.penalty, p, float(s.gradient_scale * factor) * gradient.get(i));
    m = std::fma(s.weight1, g, std::fma(-s.weight1, m, m));
    v = std::fma(s.weight2 * g, g, std::fma(-s.weight2, v, v));
    p = std::fma(-s.step_size, m / (std::sqrt(v) + s.epsilon), std::fma(-s.shrinkage, p, p));
    first.set(i, m);
    second.set(i, v);
    parameter.set(i, p);
    if (parameter.type != kFloat32)
      master.set(i, p);
    for (size_t k = 0; k < averages.size(); ++k)
      averages[k].set(i, average_of(decays[k], averages[k].get(i), parameter.get(i)));
  }

  /// Buffers whole, so that what lies before and behind the tensors counts too.
  bool operator==(const Row& other) const {
    const std::vector<const Buffer*> mine = buffers(), theirs = other.buffers();
    for (size_t b = 0; b < mine.size(); ++b)
      if (std::memcmp(mine[b]->memory.data(), theirs[b]->memory.data(), mine[b]->memory.size() * sizeof(float4)) != 0)
        return false;
    return true;
  }
};

void step_and_check(std::vector<Row>& rows, const std::vector<double>& decays, const Norm* norm) {
  std::vector<Row> expected = rows;
  std::vector<Piece> pieces;
  std::vector<uint64_t> addresses;
  std::vector<ema::Step> steps;
  for (const Row& row : rows) {
    pieces.push_back(row.piece());
    for (size_t k = 0; k < decays.size(); ++k)
      addresses.push_back(row.averages.empty() ? 0 : row.averages[k].address());
  }
  for (double decay : decays) {
    const float weight = float(1.0 - decay);
    steps.push_back(decay == 1         ? ema::Step{ema::kKeep, 0}
            : decay == 0               ? ema::Step{ema::kCopy, 0}
            : weight < 0.5f            ? ema::Step{ema::kFromAverage, weight}
                                       : ema::Step{ema::kFromSource, -float(decay)});
  }
  const unsigned blocks = unsigned(pieces.size() + kThreads / kWarp - 1) / (kThreads / kWarp);
  simt::launch(auxcore_adamw_update, {blocks, kThreads, 0}, pieces.data(), addresses.data(), kSettings, steps.data(), norm,
      uint32_t(pieces.size()), int32_t(decays.size()));
  for (size_t r = 0; r < rows.size(); ++r) {
    for (int i = 0; i < rows[r].length && !(norm && norm->skip); ++i)
      expected[r].step(i, decays, norm ? norm->factor : 1);
    CHECK(rows[r] == expected[r], "types %d and %d, length %d, settings %d, %zu averages", rows[r].parameter.type, rows[r].gradient.type,
        rows[r].length, rows[r].settings, rows[r].averages.size());
    if (test::failures > 20)
      return;
  }
}

void every_length_type_and_offset(const std::vector<double>& decays, const Norm* norm, uint32_t random) {
  for (int parameter_type : {int(kFloat32), int(kFloat16), int(kBFloat16)})
    for (int gradient_type : {int(kFloat32), int(kFloat16), int(kBFloat16)}) {
      std::vector<Row> rows;
      for (int length : kLengths)
        for (int offset : {0, 1, 3})
          for (int other : {offset, 2})
            rows.emplace_back(parameter_type, gradient_type, length, offset, other, decays.size(), random);
      rows.emplace_back(parameter_type, gradient_type, 300, 0, 0, 0, random);  // has no averages among those that have
      step_and_check(rows, decays, norm);
    }
}

void settings_and_decays_arrive_and_no_others_change() {
  SettingsBatch batch = {};
  for (int i = 0; i < kSettingsPerLaunch * kSettingsWords; ++i)
    batch.word[i] = uint64_t(i) + 1;
  for (int count : {0, kSettingsWords, kSettingsPerLaunch * kSettingsWords}) {
    std::vector<uint64_t> words(kSettingsPerLaunch * kSettingsWords, 99);
    simt::launch(auxcore_adamw_set_settings, {1, kSettingsPerLaunch * kSettingsWords, 0}, words.data(), batch, count);
    for (int i = 0; i < kSettingsPerLaunch * kSettingsWords; ++i)
      CHECK(words[size_t(i)] == (i < count ? uint64_t(i) + 1 : 99), "%d of %d", i, count);
  }
  Decays decays = {};
  for (int k = 0; k < kMostAverages; ++k)
    decays.step[k] = {ema::kFromAverage, float(k + 1)};
  for (int count = 0; count <= kMostAverages; ++count) {
    std::vector<ema::Step> steps(kMostAverages, {ema::kKeep, -1});
    simt::launch(auxcore_adamw_set_decays, {1, kMostAverages, 0}, steps.data(), decays, count);
    for (int k = 0; k < kMostAverages; ++k)
      CHECK(steps[size_t(k)].coefficient == (k < count ? float(k + 1) : -1), "%d of %d", k, count);
  }
}

double folded(std::vector<double> sums) {
  for (size_t half = sums.size() / 2; half > 0; half /= 2)
    for (size_t i = 0; i < half; ++i)
      sums[i] += sums[i + half];
  return sums[0];
}

void the_norm_has_the_documented_order(uint32_t random) {
  std::vector<Buffer> gradients;
  std::vector<int> lengths;
  std::vector<double> final_sums(kFinalSums), chunk_sums;
  std::vector<Chunk> chunks;
  const auto add = [&](int type, int length, int offset) {
    Buffer& gradient = gradients.emplace_back(type, offset, length);
    lengths.push_back(length);
    std::vector<double> sums(kWarp);
    for (int i = 0; i < length; ++i) {
      gradient.set(i, std::ldexp(random_float(random), int(next_random(random) >> 28)));  // so that sums are not exact
      sums[size_t(i % kWarp)] += double(gradient.get(i)) * gradient.get(i);
    }
    chunk_sums.push_back(folded(sums));
    final_sums[chunks.size() % kFinalSums] += chunk_sums.back();
    chunks.push_back({gradient.address(), uint32_t(length), uint32_t(type)});
  };
  for (int type : {int(kFloat32), int(kFloat16), int(kBFloat16)})
    for (int length : {1, 31, 32, 33, 255, 256, 257, kChunkElements - 1, kChunkElements})
      add(type, length, length % 4);
  while (chunks.size() < 3 * kFinalSums + 40)
    add(kFloat32, 69, 1);

  std::vector<double> sums(chunks.size());
  std::vector<uint32_t> counts(chunks.size(), 77);
  const auto run = [&](double scale, double greatest, int32_t skip) {
    const unsigned blocks = unsigned(chunks.size() + kThreads / kWarp - 1) / (kThreads / kWarp);
    Norm norm = {};
    simt::launch(auxcore_adamw_norm_chunks, {blocks, kThreads, 0}, chunks.data(), sums.data(), counts.data(), uint32_t(chunks.size()));
    simt::launch(auxcore_adamw_norm_fold, {1, kFinalSums, 0}, sums.data(), counts.data(), &norm, uint32_t(chunks.size()), scale, greatest,
        skip);
    return norm;
  };

  const double exact = folded(final_sums);
  Norm norm = run(0.5, 3, 1);
  CHECK(sums == chunk_sums, "the sums of the chunks");
  CHECK(norm.sum_of_squares == exact && norm.non_finite == 0 && norm.skip == 0, "%a, not %a", norm.sum_of_squares, exact);
  CHECK(norm.factor == 3 / (std::sqrt(exact) * 0.5 + kClipEpsilon), "%a", norm.factor);
  CHECK(run(1, 1e9, 0).factor == 1 && run(1, 0, 0).factor == 1, "what is small enough is not clipped");

  gradients[0].set(0, NAN);
  gradients[8].set(4000, INFINITY);
  gradients[8].set(4001, -INFINITY);
  gradients[20].set(3, NAN);
  norm = run(1, 1, 1);
  CHECK(norm.non_finite == 4 && !std::isfinite(norm.sum_of_squares) && norm.skip == 1 && norm.factor == 1, "%llu",
      static_cast<unsigned long long>(norm.non_finite));
  CHECK(run(1, 1, 0).skip == 0, "nobody asked to skip");

  simt::launch(auxcore_adamw_norm_fold, {1, kFinalSums, 0}, sums.data(), counts.data(), &norm, 0u, 1.0, 1.0, 1);
  CHECK(norm.sum_of_squares == 0 && norm.factor == 1 && norm.skip == 0, "of no gradients");
}

/// Every 16-bit value survives, and every float32 near one rounds as the type's neighbours say.
void narrowing_rounds_to_nearest() {
  for (int type : {int(kFloat16), int(kBFloat16)})
    for (int bits = 0; bits < 0x10000; ++bits) {
      const float value = type == kFloat16 ? widen(float16{uint16_t(bits)}) : widen(bfloat16{uint16_t(bits)});
      const int exponent = type == kFloat16 ? bits >> 10 & 31 : bits >> 7 & 255, top = type == kFloat16 ? 31 : 255;
      if (exponent == top) {
        CHECK(std::isnan(value) ? std::isnan(rounded(type, value)) : rounded(type, value) == value, "%x of %d", bits, type);
        continue;
      }
      CHECK(as_bits(rounded(type, value)) == as_bits(value), "%x of %d", bits, type);
      const uint16_t up_bits = uint16_t(bits + 1);  // away from zero
      const float up = type == kFloat16 ? widen(float16{up_bits}) : widen(bfloat16{up_bits});
      if (exponent == top - 1 && std::isinf(up))
        continue;
      const double middle = (double(value) + up) / 2;
      const float half = float(middle);
      if (double(half) != middle)
        continue;  // below what float32 resolves
      CHECK(rounded(type, half) == (bits % 2 == 0 ? value : up), "the middle after %x of %d", bits, type);
      CHECK(rounded(type, std::nextafter(half, value)) == value && rounded(type, std::nextafter(half, up)) == up, "near %x of %d", bits,
          type);
    }
  CHECK(std::isinf(rounded(kFloat16, 65520.0f)) && rounded(kFloat16, std::nextafter(65520.0f, 0.0f)) == 65504, "the greatest float16");
}

}  // namespace
}  // namespace auxcore::adamw

int main() {
  using namespace auxcore::adamw;
  narrowing_rounds_to_nearest();
  const Norm clipped = {0, 0, 0.125, 0}, skipped = {0, 1, 1, 1};
  for (uint32_t order : {0u, 1u, 4711u}) {
    simt::set_run_order(order);
    every_length_type_and_offset({}, nullptr, order + 1);
    every_length_type_and_offset({0.999}, &clipped, order + 2);
    every_length_type_and_offset({1.0, 0.999, 0.0, 0.25}, nullptr, order + 3);
    every_length_type_and_offset({0.9}, &skipped, order + 4);
    settings_and_decays_arrive_and_no_others_change();
    the_norm_has_the_documented_order(order + 5);
  }
  return auxcore::test::result();
}
