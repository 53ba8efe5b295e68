// One tensor so large that its pieces are longer than usual, and on a device with room for it, of more than 2^31 elements.
#include <algorithm>

#include "library.h"

using namespace auxcore::test;

namespace {

constexpr int64_t kMany = (int64_t{1} << 31) + 1029, kEnough = (int64_t{1} << 26) + 66'565;
constexpr int64_t kWindow = 1 << 20;
constexpr uint8_t kHalfOfThree = 0x40;  // twice: 3.0 in bfloat16

uint64_t allocated(int64_t bytes) {
  uint64_t address = 0;
  OK(auxcore_allocate(context, bytes, &address));
  return address;
}

}  // namespace

int main() {
  open_or_skip();
  skip_without_device_code();
  auxcore_device device = {};
  device.struct_size = sizeof device;
  OK(auxcore_describe_device(context, &device));
  const int64_t count = device.memory_bytes / 8 > kMany ? kMany : kEnough;

  // Two elements less are updated than there are: the first and the last stay.
  const uint64_t source = allocated(count * 2), average = allocated(count * 4);
  OK(auxcore_fill(context, nullptr, source, kHalfOfThree, count * 2));
  OK(auxcore_fill(context, nullptr, average, 0, count * 4));
  auxcore_ema_table table = 0;
  OK(auxcore_ema_create(context, 1, &table));
  const double decay = 0.75;
  OK(auxcore_ema_set_decays(table, nullptr, &decay, 1));
  const Group group = {{source + 2, average + 4}, {count - 2}, {AUXCORE_BFLOAT16}};
  const auxcore_ema_tensors tensors = group.tensors();
  OK(auxcore_ema_update(table, nullptr, &tensors));

  // All windows, or of very many some, with the ends and the place where 32 bits end.
  const int64_t every = count == kMany ? 64 : 1;
  int64_t untouched = 0, wrong = 0;
  for (int64_t at = 0; at < count && failures == 0; at += kWindow) {
    const bool is_end = at + kWindow >= count, is_boundary = at <= INT32_MAX && at + kWindow >= INT32_MAX;
    if (at / kWindow % every != 0 && !is_end && !is_boundary)
      continue;
    const auto length = static_cast<std::size_t>(std::min(kWindow, count - at));
    const std::vector<float> values = host_copy(average + static_cast<uint64_t>(at) * 4, length);
    for (const float value : values) {
      untouched += value == 0;
      wrong += value != 0 && value != 0.75f;
    }
    CHECK((at > 0 || values[0] == 0) && (!is_end || values.back() == 0));
  }
  CHECK(untouched == 2 && wrong == 0, "%lld of %lld elements are untouched, %lld are wrong", static_cast<long long>(untouched),
      static_cast<long long>(count), static_cast<long long>(wrong));
  std::printf("%lld elements\n", static_cast<long long>(count));
  OK(auxcore_close(context));
  return result();
}
