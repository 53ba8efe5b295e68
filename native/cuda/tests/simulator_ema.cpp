// EmaUpdate's kernels against the formulas in a plain loop: lengths, offsets, element types, numbers of averages, rules, thread orders.
#include "../device/device.cuh"
#include "../ema/ema_update.cuh"

#include "check.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace auxcore::ema {

extern "C" void auxcore_ema_update(
    const Piece* pieces, const uint64_t* averages, const Step* steps, uint32_t piece_count, int32_t average_count);
extern "C" void auxcore_ema_set_steps(Step* steps, Steps values, int32_t count);
extern "C" void auxcore_ema_update_bfloat16(const Piece* pieces, const uint64_t* averages, const Position* positions, const Step* steps,
    const Rounding* rounding, uint32_t piece_count, int32_t average_count);
extern "C" void auxcore_ema_set_rounding(Rounding* rounding, Rounding value);

namespace {

// Around a lane's four, a warp's 128, what a warp takes together, and the longest piece with the longest head.
constexpr int kLengths[] = {0, 1, 3, 4, 5, 127, 128, 129, 255, 256, 257, 511, 512, 513, 641, 1023, 1024, kMostPiece + kQuad - 1};
constexpr int kElementTypes[] = {kFloat32, kFloat16, kBFloat16};
constexpr float kUntouched = 12345;

Step step_for(double decay) {
  const float weight = float(1.0 - decay);
  if (decay == 1)
    return {kKeep, 0};
  if (decay == 0)
    return {kCopy, 0};
  return weight < 0.5f ? Step{kFromAverage, weight} : Step{kFromSource, -float(decay)};
}

float updated(double decay, float e, float p) {
  const float weight = float(1.0 - decay);
  if (decay == 1 || p == e)
    return e;
  if (decay == 0)
    return p;
  return weight < 0.5f ? std::fma(weight, p - e, e) : std::fma(-float(decay), p - e, p);
}

/// A value of a 16-bit type, in double; independent of the device's code.
double value_of(int type, uint16_t bits) {
  const int exponent_bits = type == kFloat16 ? 5 : 8, mantissa_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = bits >> 15 ? -1 : 1;
  const int exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1), mantissa = bits & ((1 << mantissa_bits) - 1);
  if (exponent == (1 << exponent_bits) - 1)
    return mantissa != 0 ? NAN : sign * INFINITY;
  return exponent == 0 ? sign * std::ldexp(mantissa, 1 - bias - mantissa_bits)
                       : sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

uint32_t next_random(uint32_t& state) {
  state = state * 1664525u + 1013904223u;
  return state;
}

float random_float(uint32_t& state) { return float(int32_t(next_random(state))) * 0x1p-29f; }

/// A tensor with its averages, each somewhere in a buffer that is aligned to 16 bytes and longer than the tensor.
struct Tensor {
  int type, length, source_offset, average_offset;
  std::vector<float4> source;
  std::vector<std::vector<float4>> averages;
  std::vector<float> source_values;

  static constexpr int kSlack = 16;

  size_t element_bytes() const { return type == kFloat32 ? 4 : 2; }
  char* source_address() { return reinterpret_cast<char*>(source.data()) + size_t(source_offset) * element_bytes(); }
  float* average_address(size_t k) { return reinterpret_cast<float*>(averages[k].data()) + average_offset; }

  Tensor(int type_, int length_, int source_offset_, int average_offset_, size_t average_count, uint32_t& random)
      : type(type_), length(length_), source_offset(source_offset_), average_offset(average_offset_) {
    const size_t groups = (size_t(length) + kSlack) / 4 + 4;
    source.resize(groups);
    for (int i = 0; i < length; ++i) {
      float value = random_float(random);
      char* to = source_address() + size_t(i) * element_bytes();
      if (type == kFloat32) {
        std::memcpy(to, &value, 4);
      } else {
        const uint16_t bits = uint16_t(next_random(random) >> 16);
        std::memcpy(to, &bits, 2);
        value = float(value_of(type, bits));
      }
      source_values.push_back(value);
    }
    for (size_t k = 0; k < average_count; ++k) {
      averages.emplace_back(groups, float4{kUntouched, kUntouched, kUntouched, kUntouched});
      for (int i = 0; i < length; ++i)  // some are what the source is
        average_address(k)[i] = next_random(random) % 8 == 0 ? source_values[size_t(i)] : random_float(random);
    }
  }

  uint16_t head() {
    const size_t bytes = element_bytes();
    for (size_t head = 0; head < kQuad; ++head) {
      bool aligned = (reinterpret_cast<uintptr_t>(source_address()) + head * bytes) % (kQuad * bytes) == 0;
      for (size_t k = 0; k < averages.size(); ++k)
        aligned = aligned && (reinterpret_cast<uintptr_t>(average_address(k)) + head * 4) % 16 == 0;
      if (aligned)
        return head < size_t(length) ? uint16_t(head) : kNoVectors;
    }
    return kNoVectors;
  }
};

bool same_bits(float a, float b) { return as_bits(a) == as_bits(b) || (std::isnan(a) && std::isnan(b)); }

void check(Tensor& tensor, const std::vector<std::vector<float4>>& before, const std::vector<double>& decays) {
  for (size_t k = 0; k < decays.size(); ++k) {
    const float* old = reinterpret_cast<const float*>(before[k].data());
    const float* now = reinterpret_cast<const float*>(tensor.averages[k].data());
    const int end = int(before[k].size() * 4);
    for (int i = 0; i < end; ++i) {
      const int element = i - tensor.average_offset;
      const bool inside = element >= 0 && element < tensor.length;
      const float expected = inside ? updated(decays[k], old[i], tensor.source_values[size_t(element)]) : old[i];
      if (!same_bits(now[i], expected)) {
        CHECK(false, "type %d, length %d, offsets %d and %d, average %zu of %zu, element %d: %g instead of %g", tensor.type, tensor.length,
              tensor.source_offset, tensor.average_offset, k, decays.size(), element, double(now[i]), double(expected));
        return;
      }
    }
  }
}

void update_and_check(std::vector<Tensor>& tensors, const std::vector<double>& decays) {
  std::vector<Piece> pieces;
  std::vector<uint64_t> addresses;
  std::vector<std::vector<std::vector<float4>>> before;
  for (Tensor& tensor : tensors) {
    pieces.push_back({reinterpret_cast<uint64_t>(tensor.source_address()), uint32_t(tensor.length), tensor.head(), uint16_t(tensor.type)});
    for (size_t k = 0; k < decays.size(); ++k)
      addresses.push_back(reinterpret_cast<uint64_t>(tensor.average_address(k)));
    before.push_back(tensor.averages);
  }
  std::vector<Step> steps;
  for (double decay : decays)
    steps.push_back(step_for(decay));
  const unsigned blocks = unsigned(pieces.size() + kThreads / kWarp - 1) / (kThreads / kWarp);
  simt::launch(auxcore_ema_update, {blocks, kThreads, 0}, pieces.data(), addresses.data(), steps.data(), uint32_t(pieces.size()),
               int32_t(decays.size()));
  for (size_t i = 0; i < tensors.size(); ++i)
    check(tensors[i], before[i], decays);
}

void every_length_type_and_offset(const std::vector<double>& decays, uint32_t random) {
  for (int type : kElementTypes) {
    const int offsets = type == kFloat32 ? 4 : 8;
    std::vector<Tensor> tensors;
    for (int length : kLengths)
      for (int source_offset = 0; source_offset < offsets; ++source_offset)
        for (int average_offset : {0, source_offset % 4, (source_offset + 1) % 4})
          if (length <= 257 || source_offset < 4)
            tensors.emplace_back(type, length, source_offset, average_offset, decays.size(), random);
    update_and_check(tensors, decays);
  }
}

/// All values of a 16-bit type, NaNs and infinities included.
void every_16_bit_value() {
  uint32_t random = 7;
  for (int type : {int(kFloat16), int(kBFloat16)})
    for (double decay : {0.0, 0.9}) {
      std::vector<Tensor> tensors;
      for (int first = 0; first < 65536; first += kMostPiece) {
        Tensor& tensor = tensors.emplace_back(type, kMostPiece, 0, 0, 1, random);
        for (int i = 0; i < kMostPiece; ++i) {
          const uint16_t bits = uint16_t(first + i);
          std::memcpy(tensor.source_address() + i * 2, &bits, 2);
          tensor.source_values[size_t(i)] = float(value_of(type, bits));
        }
      }
      update_and_check(tensors, {decay});
    }
}

void steps_arrive_and_no_others_change() {
  for (int count = 0; count <= kStepsPerLaunch; ++count) {
    Steps values = {};
    for (int i = 0; i < kStepsPerLaunch; ++i)
      values.step[i] = {kFromAverage, float(i + 1)};
    std::vector<Step> steps(kStepsPerLaunch, {kKeep, -1});
    simt::launch(auxcore_ema_set_steps, {1, kStepsPerLaunch, 0}, steps.data(), values, count);
    for (int i = 0; i < kStepsPerLaunch; ++i)
      CHECK(steps[size_t(i)].coefficient == (i < count ? float(i + 1) : -1), "%d of %d", i, count);
  }
}

/// Philox4x32-10 as its authors describe it, on 32-bit words; independent of the device's code.
void philox_words(uint32_t counter[4], uint32_t key[2]) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * counter[0], second = uint64_t{0xCD9E8D57} * counter[2];
    const uint32_t next[4] = {
        uint32_t(second >> 32) ^ counter[1] ^ key[0], uint32_t(second), uint32_t(first >> 32) ^ counter[3] ^ key[1], uint32_t(first)};
    std::memcpy(counter, next, sizeof next);
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
}

/// The known answers that come with Random123.
void random_numbers_are_known() {
  uint32_t counter[4] = {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, key[2] = {0xa4093822, 0x299f31d0};
  philox_words(counter, key);
  CHECK(counter[0] == 0xd16cfe09 && counter[1] == 0x94fdcceb && counter[2] == 0x5001e420 && counter[3] == 0x24126ea1);
}

/// What src/Kernels/Ema/EmaRounding.cs says of one element.
uint16_t rounded(float value, const Rounding& how, size_t average, uint32_t tensor, uint64_t element) {
  const uint32_t bits = as_bits(value);
  if (std::isnan(value))
    return uint16_t(bits >> 16 | 0x40);
  if (how.kind == kNearest)
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  const uint64_t seed = how.seed + average;
  uint32_t counter[4] = {uint32_t(element / 8), how.first_tensor + tensor, uint32_t(how.step), uint32_t(how.step >> 32)};
  uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
  philox_words(counter, key);
  return uint16_t((bits + (counter[element % 8 / 2] >> element % 2 * 16 & 0xffff)) >> 16);
}

/// Every type, length, alignment and beginning within a tensor; the averages are 16-bit patterns.
void averages_in_bfloat16(const std::vector<double>& decays, Rounding how, uint32_t random) {
  struct Sixteen {
    Tensor source;
    std::vector<std::vector<uint64_t>> memory, before;  // 8-byte aligned
    uint64_t element;
    uint16_t* average(size_t k) { return reinterpret_cast<uint16_t*>(memory[k].data()) + source.average_offset; }
  };
  for (int type : kElementTypes) {
    std::vector<Sixteen> tensors;
    for (int length : {0, 1, 3, 4, 7, 8, 33, 127, 128, 129, 1030})
      for (int source_offset = 0; source_offset < 4; ++source_offset)
        for (int average_offset : {0, source_offset, (source_offset + 1) % 4}) {
          Sixteen tensor{{type, length, source_offset, average_offset, 0, random}, {}, {}, next_random(random) % 20};
          for (size_t k = 0; k < decays.size(); ++k) {
            auto& words = tensor.memory.emplace_back(size_t(length) / 4 + 4);
            for (uint64_t& word : words)  // patterns of numbers near 1, and of all kinds
              word = (uint64_t{next_random(random)} << 32 | next_random(random)) & (next_random(random) % 2 ? ~0ull
              : 0x3fff3fff3fff3fffull);
            for (int i = 0; i < length; i += 5)  // some are what the source is, as far as bfloat16 has it
              tensor.average(k)[i] = uint16_t(as_bits(tensor.source.source_values[size_t(i)]) >> 16);
          }
          tensor.before = tensor.memory;
          tensors.push_back(std::move(tensor));
        }

    std::vector<Piece> pieces;
    std::vector<uint64_t> addresses;
    std::vector<Position> positions;
    for (Sixteen& tensor : tensors) {
      uint16_t head = kNoVectors;
      for (uint16_t at = 0; at < kQuad && at < tensor.source.length && head == kNoVectors; ++at)
        if ((tensor.source.source_offset + at) % kQuad == 0 && (tensor.source.average_offset + at) % kQuad == 0)
          head = at;
      pieces.push_back({reinterpret_cast<uint64_t>(tensor.source.source_address()), uint32_t(tensor.source.length), head, uint16_t(type)});
      positions.push_back({tensor.element, uint32_t(pieces.size() * 7), 0});
      for (size_t k = 0; k < decays.size(); ++k)
        addresses.push_back(reinterpret_cast<uint64_t>(tensor.average(k)));
    }
    std::vector<Step> steps;
    for (double decay : decays)
      steps.push_back(step_for(decay));
    Rounding stored = {};
    simt::launch(auxcore_ema_set_rounding, {1, kWarp, 0}, &stored, how);
    const unsigned blocks = unsigned(pieces.size() + kThreads / kWarp - 1) / (kThreads / kWarp);
    simt::launch(auxcore_ema_update_bfloat16, {blocks, kThreads, 0}, pieces.data(), addresses.data(), positions.data(), steps.data(),
        &stored,
                 uint32_t(pieces.size()), int32_t(decays.size()));

    for (size_t t = 0; t < tensors.size(); ++t)
      for (size_t k = 0; k < decays.size(); ++k) {
        const uint16_t *old = reinterpret_cast<const uint16_t*>(tensors[t].before[k].data()),
                       *now = reinterpret_cast<const uint16_t*>(tensors[t].memory[k].data());
        for (int i = 0; i < int(tensors[t].memory[k].size() * 4); ++i) {
          const int element = i - tensors[t].source.average_offset;
          uint16_t expected = old[i];
          if (element >= 0 && element < tensors[t].source.length && decays[k] != 1)
            expected = rounded(updated(decays[k], as_float(uint32_t(old[i]) << 16), tensors[t].source.source_values[size_t(element)]), how,
                k,
                               positions[t].tensor, positions[t].element + uint64_t(element));
          const bool nans = (now[i] & 0x7fff) > 0x7f80 && (expected & 0x7fff) > 0x7f80;  // which NaN is the hardware's affair
          if (now[i] != expected && !nans) {
            CHECK(false, "type %d, length %d, offsets %d and %d, average %zu, element %d: %04x instead of %04x", type,
                tensors[t].source.length,
                  tensors[t].source.source_offset, tensors[t].source.average_offset, k, element, now[i], expected);
            break;
          }
        }
      }
  }
}

}  // namespace
}  // namespace auxcore::ema

int main() {
  using namespace auxcore::ema;
  for (uint32_t order : {0u, 1u, 4711u}) {
    simt::set_run_order(order);
    // All four rules, each first, last and between others.
    every_length_type_and_offset({0.999}, order + 1);
    every_length_type_and_offset({0.25}, order + 2);
    every_length_type_and_offset({1.0, 0.999, 0.0, 0.25, 0.5}, order + 3);
    every_length_type_and_offset({0.0, 1.0}, order + 4);
    steps_arrive_and_no_others_change();
    averages_in_bfloat16({0.999}, {0x123456789abcdef0, (uint64_t{5} << 32) + 17, 3, kStochastic}, order + 5);
    averages_in_bfloat16({0.25, 1.0, 0.0, 0.9}, {~0ull, 1, 0, kStochastic}, order + 6);  // seed + average wraps around
    averages_in_bfloat16({0.9, 0.5}, {0, 0, 0, kNearest}, order + 7);
  }
  random_numbers_are_known();
  every_16_bit_value();
  return auxcore::test::result();
}
