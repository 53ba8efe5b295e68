// EmaUpdate through the C ABI: against the formula, what it refuses, from many threads. Runs on the stand-in and on a device.
#include <atomic>
#include <thread>

#include "library.h"

using namespace auxcore::test;

namespace {

void check_averages(const std::vector<float>& after, const std::vector<float>& before, const std::vector<float>& source, double decay) {
  for (std::size_t i = 0; i < after.size(); ++i) {
    const double expected = average_of(before[i], source[i], decay);
    const double scale = std::fmax(std::fabs(before[i]), std::fabs(source[i]));
    CHECK(std::fabs(after[i] - expected) <= scale * 0x1p-23, "element %zu: %g, not %g", i, after[i], expected);
    if (failures > 20)
      return;
  }
}

// Odd sizes, every alignment, an empty tensor, tensors of several pieces; two averages with decays of different rules.
void ema_agrees_with_the_formula() {
  const std::vector<std::size_t> counts = {1, 0, 3, 256, 4096, 4097, 8191, 10000, 33, 5};
  const double decays[][2] = {{0.999, 0.25}, {0, 0.9}, {0.5, 1}, {0.9999, 0.99}};
  std::vector<std::vector<float>> sources, first, second;
  Group group;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const std::size_t offset = i % 4;
    sources.push_back(pattern(counts[i] + offset + 1, 11));
    first.push_back(pattern(counts[i] + offset + 1, 29));
    second.push_back(pattern(counts[i] + (i % 3) + 1, 31));
    group.addresses.push_back(device_copy(sources[i]) + 4 * offset);
    group.addresses.push_back(device_copy(first[i]) + 4 * offset);
    group.addresses.push_back(device_copy(second[i]) + 4 * (i % 3));
    group.counts.push_back(static_cast<int64_t>(counts[i]));
    group.types.push_back(AUXCORE_FLOAT32);
  }
  const auxcore_ema_tensors tensors = group.tensors();
  auxcore_ema_table table = 0;
  OK(auxcore_ema_create(context, 2, &table));
  OK(auxcore_ema_update(table, nullptr, &tensors));  // the decays are 1 at first

  for (const auto& decay : decays) {
    OK(auxcore_ema_set_decays(table, nullptr, decay, 2));
    OK(auxcore_ema_update(table, nullptr, nullptr));
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const std::size_t offset = i % 4, other = i % 3;
      const std::vector<float> p(sources[i].begin() + static_cast<long>(offset), sources[i].end());
      const auto verify = [&](std::vector<float>& known, std::size_t at, uint64_t address, double beta) {
        const std::vector<float> now = host_copy(address - 4 * at, known.size());
        const auto begin = static_cast<long>(at);
        check_averages({now.begin() + begin, now.end() - 1}, {known.begin() + begin, known.end() - 1}, p, beta);
        CHECK(now.back() == known.back(), "what lies behind the average is untouched");
        for (std::size_t before = 0; before < at; ++before)
          CHECK(now[before] == known[before], "what lies before the average is untouched");
        known = now;
      };
      verify(first[i], offset, group.addresses[3 * i + 1], decay[0]);
      verify(second[i], other, group.addresses[3 * i + 2], decay[1]);
    }
  }
  OK(auxcore_ema_destroy(table));
  for (std::size_t i = 0; i < counts.size(); ++i) {
    OK(auxcore_free(context, group.addresses[3 * i] - 4 * (i % 4)));
    OK(auxcore_free(context, group.addresses[3 * i + 1] - 4 * (i % 4)));
    OK(auxcore_free(context, group.addresses[3 * i + 2] - 4 * (i % 3)));
  }
}

void ema_is_checked() {
  const uint64_t memory = device_copy(std::vector<float>(64, 1.0f)), average = device_copy(std::vector<float>(64, 5.0f));
  auxcore_ema_table table = 0;
  REFUSED(AUXCORE_E_ARGUMENT, "average_count is 0", auxcore_ema_create(context, 0, &table));
  REFUSED(AUXCORE_E_ARGUMENT, "average_count is 65", auxcore_ema_create(context, 65, &table));
  REFUSED(AUXCORE_E_ARGUMENT, "table is NULL", auxcore_ema_create(context, 1, nullptr));
  OK(auxcore_ema_create(context, 1, &table));
  REFUSED(AUXCORE_E_ARGUMENT, "no update before", auxcore_ema_update(table, nullptr, nullptr));

  for (const double wrong : {-0.1, 1.1, std::nan(""), HUGE_VAL})
    REFUSED(AUXCORE_E_ARGUMENT, "not within [0, 1]", auxcore_ema_set_decays(table, nullptr, &wrong, 1));
  const double half[2] = {0.5, 0.5};
  REFUSED(AUXCORE_E_ARGUMENT, "2 decays for 1 averages", auxcore_ema_set_decays(table, nullptr, half, 2));
  REFUSED(AUXCORE_E_ARGUMENT, "decays is NULL", auxcore_ema_set_decays(table, nullptr, nullptr, 1));
  OK(auxcore_ema_set_decays(table, nullptr, half, 1));

  const auto refused = [&](const char* text, Group group, auto&& change) {
    auxcore_ema_tensors tensors = group.tensors();
    change(tensors);
    REFUSED(AUXCORE_E_ARGUMENT, text, auxcore_ema_update(table, nullptr, &tensors));
  };
  const auto nothing = [](auxcore_ema_tensors&) {};
  const Group right = {{memory, average}, {64}, {AUXCORE_FLOAT32}};
  float host[64] = {};
  const uint64_t of_host = reinterpret_cast<uint64_t>(host);
  refused("tensor_count is -1", right, [](auxcore_ema_tensors& tensors) { tensors.tensor_count = -1; });
  refused("tensor_count is", right, [](auxcore_ema_tensors& tensors) { tensors.tensor_count = INT64_MAX; });
  refused("is NULL", right, [](auxcore_ema_tensors& tensors) { tensors.addresses = nullptr; });
  refused("is NULL", right, [](auxcore_ema_tensors& tensors) { tensors.element_counts = nullptr; });
  refused("is NULL", right, [](auxcore_ema_tensors& tensors) { tensors.source_types = nullptr; });
  refused("average_type is 2", right, [](auxcore_ema_tensors& tensors) { tensors.average_type = AUXCORE_FLOAT16; });
  refused("no rounding was set", right, [](auxcore_ema_tensors& tensors) { tensors.average_type = AUXCORE_BFLOAT16; });
  refused("sources[0]: type 1", {{memory, average}, {64}, {1}}, nothing);
  refused("sources[0]: -3 elements", {{memory, average}, {-3}, {AUXCORE_FLOAT32}}, nothing);
  refused("elements", {{memory, average}, {INT64_MAX}, {AUXCORE_FLOAT32}}, nothing);
  refused("sources[0]", {{memory, average}, {int64_t{1} << 50}, {AUXCORE_FLOAT32}}, nothing);
  refused("sources[0]: 0x", {{of_host, average}, {64}, {AUXCORE_FLOAT32}}, nothing);
  refused("averages[0][0]: 0x", {{memory, of_host}, {64}, {AUXCORE_FLOAT32}}, nothing);
  refused("averages[0][0]: 0x0", {{memory, 0}, {64}, {AUXCORE_FLOAT32}}, nothing);
  refused("is not aligned to its elements of 4", {{memory, average + 2}, {60}, {AUXCORE_FLOAT32}}, nothing);
  refused("is not aligned to its elements of 2", {{memory + 1, average}, {60}, {AUXCORE_BFLOAT16}}, nothing);
  refused("averages[0][0] overlaps sources[0]", {{memory, memory + 64}, {32}, {AUXCORE_FLOAT32}}, nothing);
  refused("sources[0] overlaps averages[0][0]", {{memory + 64, memory}, {32}, {AUXCORE_FLOAT32}}, nothing);
  refused("averages[0][1] overlaps averages[0][0]",
      {{memory, average, memory, average + 40}, {16, 16}, {AUXCORE_FLOAT32, AUXCORE_FLOAT32}}, nothing);
  auxcore_ema_tensors short_struct = right.tensors();
  short_struct.struct_size = 8;
  REFUSED(AUXCORE_E_ABI, "struct_size is 8", auxcore_ema_update(table, nullptr, &short_struct));
  CHECK(host_copy(average, 64) == std::vector<float>(64, 5.0f), "what was refused was not done");

  // Sources may share memory; nothing at all is fine; an average beside a source is no overlap.
  Group tied = {{memory, average, memory, average + 64}, {16, 16}, {AUXCORE_FLOAT32, AUXCORE_FLOAT32}};
  const auxcore_ema_tensors shared = tied.tensors(), none = Group{}.tensors();
  OK(auxcore_ema_update(table, nullptr, &shared));
  OK(auxcore_ema_update(table, nullptr, &none));
  const std::vector<float> after = host_copy(average, 64);
  CHECK(after[0] == 3 && after[31] == 3 && after[32] == 5);
  OK(auxcore_ema_destroy(table));
  OK(auxcore_free(context, memory));
  OK(auxcore_free(context, average));
}

void no_caller_frees_what_a_table_owns() {
  uint64_t before = 0, after = 0;
  auxcore_ema_table table = 0;
  OK(auxcore_allocate(context, 16, &before));
  OK(auxcore_ema_create(context, 1, &table));
  OK(auxcore_allocate(context, 16, &after));
  // The stand-in allocates upwards, on multiples of 256: what the table owns lies between. A device may put it elsewhere.
  for (uint64_t address = before + 256; address < after && address < before + (1 << 20); address += 256)
    REFUSED(AUXCORE_E_ARGUMENT, "was not allocated through", auxcore_free(context, address));
  const double half = 0.5;
  OK(auxcore_ema_set_decays(table, nullptr, &half, 1));
  OK(auxcore_ema_destroy(table));
  OK(auxcore_free(context, before));
  OK(auxcore_free(context, after));
}

void sources_of_sixteen_bits_are_widened() {
  std::vector<uint16_t> patterns(65536);
  for (std::size_t i = 0; i < patterns.size(); ++i)
    patterns[i] = static_cast<uint16_t>(i);
  for (const auxcore_dtype type : {AUXCORE_FLOAT16, AUXCORE_BFLOAT16}) {
    uint64_t source = 0;
    const uint64_t average = device_copy(std::vector<float>(65536));
    OK(auxcore_allocate(context, 65536 * 2, &source));
    OK(auxcore_copy_to_device(context, nullptr, source, patterns.data(), 65536 * 2));
    auxcore_ema_table table = 0;
    OK(auxcore_ema_create(context, 1, &table));
    const double copy = 0;
    OK(auxcore_ema_set_decays(table, nullptr, &copy, 1));
    const Group group = {{source, average}, {65536}, {type}};
    const auxcore_ema_tensors tensors = group.tensors();
    OK(auxcore_ema_update(table, nullptr, &tensors));
    const std::vector<float> wide = host_copy(average, 65536);
    for (int i = 0; i < 65536; ++i) {
      const int exponent = type == AUXCORE_FLOAT16 ? i >> 10 & 31 : i >> 7 & 255;
      const int mantissa = type == AUXCORE_FLOAT16 ? i & 1023 : i & 127;
      const int bits = type == AUXCORE_FLOAT16 ? 10 : 7, bias = type == AUXCORE_FLOAT16 ? 15 : 127, top = 2 * bias + 1;
      double expected = exponent == top ? (mantissa ? NAN : HUGE_VAL)
          : std::ldexp(mantissa + (exponent ? 1 << bits : 0), (exponent ? exponent : 1) - bias - bits);
      expected = i & 0x8000 ? -expected : expected;
      CHECK(std::isnan(expected) ? std::isnan(wide[i]) : wide[i] == expected && std::signbit(wide[i]) == std::signbit(expected),
          "type %d, pattern %d: %g, not %g", type, i, wide[i], expected);
    }
    OK(auxcore_ema_destroy(table));
    OK(auxcore_free(context, source));
    OK(auxcore_free(context, average));
  }
}

void many_threads_share_a_context() {
  constexpr int kThreads = 8, kRounds = 20;
  const std::vector<float> source = pattern(300, 5);
  const uint64_t shared_source = device_copy(source);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      const double decay = 0.5;
      uint64_t average = 0;
      auxcore_ema_table table = 0;
      void* stream = nullptr;
      wrong += auxcore_stream_create(context, &stream) != 0;
      wrong += auxcore_allocate(context, 1200, &average) != 0;
      wrong += auxcore_fill(context, stream, average, 0, 1200) != 0;
      wrong += auxcore_ema_create(context, 1, &table) != 0;
      const Group group = {{shared_source, average}, {300}, {AUXCORE_FLOAT32}};
      const auxcore_ema_tensors tensors = group.tensors();
      wrong += auxcore_ema_set_decays(table, stream, &decay, 1) != 0;
      for (int round = 0; round < kRounds; ++round)
        wrong += auxcore_ema_update(table, stream, round % 2 ? &tensors : round ? nullptr : &tensors) != 0;
      std::vector<float> result(300);
      wrong += auxcore_copy_to_host(context, stream, result.data(), average, 1200) != 0;
      for (int i = 0; i < 300; ++i)
        wrong += std::fabs(result[i] - source[i]) > 1e-4f;
      wrong += auxcore_ema_destroy(table) != 0;
      wrong += auxcore_free(context, average) != 0;
      wrong += auxcore_stream_destroy(context, stream) != 0;
    });
  for (std::thread& thread : threads)
    thread.join();
  CHECK(wrong == 0, "%d calls or elements", wrong.load());
  OK(auxcore_free(context, shared_source));
}

// Calls on one table run one after the other, also where each has other tensors than the one before.
void threads_share_a_table() {
  constexpr int kThreads = 4, kRounds = 20;
  const uint64_t source = device_copy(std::vector<float>(100, 1.0f));
  std::vector<uint64_t> averages;
  for (int t = 0; t < kThreads; ++t)
    averages.push_back(device_copy(std::vector<float>(100)));
  auxcore_ema_table table = 0;
  OK(auxcore_ema_create(context, 1, &table));
  const double half = 0.5;
  OK(auxcore_ema_set_decays(table, nullptr, &half, 1));
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      Group group = {{source, averages[static_cast<std::size_t>(t)]}, {100}, {AUXCORE_FLOAT32}};
      group.addresses.resize(4000);  // empty tensors: comparing takes long enough to be met by another thread
      group.counts.resize(2000);
      group.types.resize(2000);
      const auxcore_ema_tensors tensors = group.tensors();
      for (int round = 0; round < kRounds; ++round) {
        wrong += auxcore_ema_set_decays(table, nullptr, &half, 1) != 0;
        wrong += auxcore_ema_update(table, nullptr, &tensors) != 0;
      }
    });
  for (std::thread& thread : threads)
    thread.join();
  CHECK(wrong == 0, "%d calls", wrong.load());
  for (const uint64_t average : averages) {
    CHECK(host_copy(average, 100) == std::vector<float>(100, static_cast<float>(1 - std::pow(0.5, kRounds))));
    OK(auxcore_free(context, average));
  }
  OK(auxcore_ema_destroy(table));
  OK(auxcore_free(context, source));
}

}  // namespace

int main() {
  open_or_skip();
  skip_without_device_code();
  ema_agrees_with_the_formula();
  ema_is_checked();
  no_caller_frees_what_a_table_owns();
  sources_of_sixteen_bits_are_widened();
  many_threads_share_a_context();
  threads_share_a_table();
  OK(auxcore_close(context));
  return result();
}
