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

}  // namespace
}  // namespace auxcore::ema

int main() {
  using namespace auxcore::ema;
  for (uint32_t order : {0u, 1u, 4711u}) {
    simt::set_thread_order(order);
    // All four rules, each first, last and between others.
    every_length_type_and_offset({0.999}, order + 1);
    every_length_type_and_offset({0.25}, order + 2);
    every_length_type_and_offset({1.0, 0.999, 0.0, 0.25, 0.5}, order + 3);
    every_length_type_and_offset({0.0, 1.0}, order + 4);
    steps_arrive_and_no_others_change();
  }
  every_16_bit_value();
  return auxcore::test::result();
}
