// Every call that the library makes to the driver, made to fail once: the status is the driver's, the message names the function, nothing
// leaks, and averages are as they were or as they should be. Also what a captured graph does. Needs the stand-in.
#include <set>
#include <string>

#include "../simulator/standin_cuda.h"
#include "library.h"

using namespace auxcore::test;

namespace {

constexpr int kCount = 5000;
constexpr float kAverage = 4, kSource = 8, kHalf = 6;

struct Outcome {
  auxcore_status first = AUXCORE_OK;  // the first failure, and its message
  std::string message;
  int failed = 0;

  bool ok(auxcore_status status) {
    if (status == AUXCORE_OK)
      return true;
    if (failed++ == 0) {
      first = status;
      message = auxcore_last_error();
    }
    return false;
  }
};

// The same memory taken for averages in bfloat16, which are another table with a kernel of its own.
void update_rounded(const Standin& standin, Outcome& outcome, auxcore_ema_table table, auxcore_ema_tensors tensors, uint64_t average) {
  std::vector<uint16_t> before(2 * kCount), now(2 * kCount);
  CHECK(standin.peek(average, before.data(), kCount * 4) == 0);
  tensors.average_type = AUXCORE_BFLOAT16;
  const double half = 0.5;
  const bool updated = outcome.ok(auxcore_ema_set_rounding(table, nullptr, AUXCORE_ROUND_STOCHASTIC, 1, 2, 3)) &&
      outcome.ok(auxcore_ema_set_decays(table, nullptr, &half, 1)) && outcome.ok(auxcore_ema_update(table, nullptr, &tensors));
  CHECK(standin.peek(average, now.data(), kCount * 4) == 0);
  const bool launched = outcome.message.find("faulted") != std::string::npos;
  CHECK(updated || launched ? std::equal(before.begin() + kCount, before.end(), now.begin() + kCount) : before == now,
      "after %s", outcome.message.c_str());
}

// A caller's whole life: open, allocate, copy, streams, two updates, clean up whatever came about. Returns the first failure.
Outcome scenario(const Standin& standin) {
  Outcome outcome;
  auxcore_context context = 0;
  if (!outcome.ok(auxcore_open(AUXCORE_ABI_VERSION, 0, AUXCORE_OPEN_SYNCHRONOUS, &context)))
    return outcome;
  auxcore_device device = {};
  device.struct_size = sizeof device;
  outcome.ok(auxcore_describe_device(context, &device));

  uint64_t source = 0, average = 0, copy = 0;
  auxcore_ema_table table = 0;
  void* stream = nullptr;
  const std::vector<float> averages(kCount, kAverage), sources(kCount, kSource);
  const bool ready = outcome.ok(auxcore_stream_create(context, &stream)) && outcome.ok(auxcore_allocate(context, kCount * 4, &source)) &&
      outcome.ok(auxcore_allocate(context, kCount * 4, &average)) && outcome.ok(auxcore_allocate(context, kCount * 4, &copy)) &&
      outcome.ok(auxcore_copy_to_device(context, stream, average, averages.data(), kCount * 4)) &&
      outcome.ok(auxcore_copy_to_device(context, stream, source, sources.data(), kCount * 4)) &&
      outcome.ok(auxcore_fill(context, stream, copy, 0, kCount * 4)) &&
      outcome.ok(auxcore_copy_on_device(context, stream, copy, source, 64)) &&
      outcome.ok(auxcore_stream_wait(context, nullptr, stream)) && outcome.ok(auxcore_ema_create(context, 1, &table));
  if (ready) {
    const Group group = {{source, average}, {kCount}, {AUXCORE_FLOAT32}}, other = {{source, copy}, {kCount}, {AUXCORE_FLOAT32}};
    const auxcore_ema_tensors tensors = group.tensors(), others = other.tensors();
    const double half = 0.5, keep = 1;
    const bool set = outcome.ok(auxcore_ema_set_decays(table, nullptr, &half, 1));
    const bool updated = set && outcome.ok(auxcore_ema_update(table, nullptr, &tensors));
    std::vector<float> now(kCount);
    CHECK(standin.peek(average, now.data(), kCount * 4) == 0);
    // A launch that could not be made changed nothing; where waiting for it failed, it may have run.
    const bool launched = outcome.message.find("faulted") != std::string::npos;
    CHECK(now == std::vector<float>(kCount, updated ? kHalf : kAverage) || (launched && now == std::vector<float>(kCount, kHalf)),
        "the average holds %g after %s", now[0], outcome.message.c_str());
    if (!updated) {  // The failure has passed: the same calls succeed.
      standin.fail(0, 0);
      OK(auxcore_ema_set_decays(table, nullptr, &half, 1));
      OK(auxcore_ema_update(table, nullptr, &tensors));
    }
    CHECK(standin.state().allocations == 5, "%lld after %s", static_cast<long long>(standin.state().allocations), outcome.message.c_str());
    if (updated) {
      // Another table of tensors takes the place of the first; the averages of the first stay.
      outcome.ok(auxcore_ema_set_decays(table, nullptr, &keep, 1));
      outcome.ok(auxcore_ema_update(table, nullptr, &others));
      update_rounded(standin, outcome, table, others, copy);
      outcome.ok(auxcore_copy_to_host(context, nullptr, now.data(), average, kCount * 4));
    }
  }
  if (table != 0)
    outcome.ok(auxcore_ema_destroy(table));
  outcome.ok(auxcore_free(context, copy));
  outcome.ok(auxcore_free(context, average));
  if (stream != nullptr)
    outcome.ok(auxcore_stream_destroy(context, stream));
  outcome.ok(auxcore_close(context));  // frees the source
  return outcome;
}

void check_nothing_is_left(const Standin& standin, const char* after) {
  const auxcore_standin_state now = standin.state();
  CHECK(now.allocations == 0, "%lld after %s", static_cast<long long>(now.allocations), after);
  CHECK(now.retained_contexts == 0 && now.pushed_contexts == 0, "%lld retained, %lld pushed after %s",
      static_cast<long long>(now.retained_contexts), static_cast<long long>(now.pushed_contexts), after);
  CHECK(now.modules == 0 && now.streams == 0 && now.events == 0, "%lld modules, %lld streams, %lld events after %s",
      static_cast<long long>(now.modules), static_cast<long long>(now.streams), static_cast<long long>(now.events), after);
}

void every_call_may_fail(const Standin& standin) {
  OK(scenario(standin).first);
  const int64_t before = standin.calls();
  OK(scenario(standin).first);
  const int64_t calls = standin.calls() - before;
  CHECK(calls > 60, "only %lld", static_cast<long long>(calls));
  check_nothing_is_left(standin, "no failure");

  int silent = 0;
  constexpr int kError = 719;  // CUDA_ERROR_LAUNCH_FAILED
  for (int64_t nth = 1; nth <= calls; ++nth) {
    standin.fail(nth, kError);
    const Outcome outcome = scenario(standin);
    standin.fail(0, 0);
    const std::string failed = standin.failed();
    if (failed == "cuCtxPopCurrent_v2" && outcome.first == AUXCORE_OK) {
      ++silent;  // at the end of a call that did its work: there is nothing to report it with
    } else {
      CHECK(outcome.first == kError, "call %lld, %s: %d", static_cast<long long>(nth), failed.c_str(), outcome.first);
      CHECK(outcome.message.find(failed) != std::string::npos || outcome.message.find("EmaUpdate: ") != std::string::npos ||
              outcome.message.find("loading the device code of ema") != std::string::npos,
          "call %lld, %s: %s", static_cast<long long>(nth), failed.c_str(), outcome.message.c_str());
    }
    check_nothing_is_left(standin, failed.c_str());
    if (failures > 20)
      return;
  }
  std::printf("%lld calls to the driver made to fail, one after the other; %d of them, all of them pops, without a word\n",
      static_cast<long long>(calls), silent);
}

// The driver's graph functions, which the library itself does not need.
struct Graphs {
  decltype(&cuStreamBeginCapture_v2) begin;
  decltype(&cuStreamEndCapture) end;
  decltype(&cuGraphInstantiateWithFlags) instantiate;
  decltype(&cuGraphLaunch) launch;
  decltype(&cuGraphExecDestroy) destroy_executable;
  decltype(&cuGraphDestroy) destroy;
  decltype(&cuCtxPushCurrent_v2) push;
  decltype(&cuCtxPopCurrent_v2) pop;
  decltype(&cuDevicePrimaryCtxRetain) retain;
  decltype(&cuDevicePrimaryCtxRelease_v2) release;

  Graphs() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      CHECK(function != nullptr, "%s", name);
    };
    find(begin, "cuStreamBeginCapture_v2");
    find(end, "cuStreamEndCapture");
    find(instantiate, "cuGraphInstantiateWithFlags");
    find(launch, "cuGraphLaunch");
    find(destroy_executable, "cuGraphExecDestroy");
    find(destroy, "cuGraphDestroy");
    find(push, "cuCtxPushCurrent_v2");
    find(pop, "cuCtxPopCurrent_v2");
    find(retain, "cuDevicePrimaryCtxRetain");
    find(release, "cuDevicePrimaryCtxRelease_v2");
  }
};

void a_captured_update_replays_with_other_decays() {
  const Graphs graphs;
  auxcore_context context = 0;
  auxcore_ema_table table = 0;
  uint64_t source = 0, average = 0;
  void* made = nullptr;
  CUcontext primary = nullptr;
  CUgraph graph = nullptr;
  CUgraphExec executable = nullptr;
  OK(auxcore_open(AUXCORE_ABI_VERSION, 0, 0, &context));
  CHECK(graphs.retain(&primary, 0) == 0 && graphs.push(primary) == 0);
  OK(auxcore_stream_create(context, &made));
  const CUstream stream = static_cast<CUstream>(made);
  OK(auxcore_ema_create(context, 1, &table));
  OK(auxcore_allocate(context, 64, &source));
  OK(auxcore_allocate(context, 64, &average));
  const std::vector<float> ones(16, 1.0f), zeros(16);
  OK(auxcore_copy_to_device(context, stream, source, ones.data(), 64));
  OK(auxcore_copy_to_device(context, stream, average, zeros.data(), 64));
  const Group group = {{source, average}, {16}, {AUXCORE_FLOAT32}}, other = {{source, average}, {8}, {AUXCORE_FLOAT32}};
  const auxcore_ema_tensors tensors = group.tensors(), others = other.tensors();
  OK(auxcore_ema_update(table, stream, &tensors));

  CHECK(graphs.begin(stream, 2) == 0);  // relaxed
  const double half = 0.5, quarter = 0.25, keep = 1;
  OK(auxcore_ema_set_decays(table, stream, &keep, 1));  // what the table has
  REFUSED(AUXCORE_E_ARGUMENT, "set decays before the capture", auxcore_ema_set_decays(table, stream, &half, 1));
  REFUSED(AUXCORE_E_ARGUMENT, "one update with these tensors before", auxcore_ema_update(table, stream, &others));
  OK(auxcore_ema_update(table, stream, &tensors));
  CHECK(graphs.end(stream, &graph) == 0 && graphs.instantiate(&executable, graph, 0) == 0);

  std::vector<float> now(16);
  float expected = 0;
  for (const double decay : {half, keep, quarter, 0.0}) {
    OK(auxcore_ema_set_decays(table, stream, &decay, 1));
    CHECK(graphs.launch(executable, stream) == 0);
    OK(auxcore_copy_to_host(context, stream, now.data(), average, 64));
    expected = static_cast<float>(decay * expected + (1 - decay));
    CHECK(now == std::vector<float>(16, expected), "%g, not %g", now[0], expected);
  }
  CHECK(graphs.destroy_executable(executable) == 0 && graphs.destroy(graph) == 0);
  CHECK(graphs.pop(&primary) == 0 && graphs.release(0) == 0);
  OK(auxcore_close(context));
}

void a_captured_update_replays_with_another_rounding() {
  const Graphs graphs;
  auxcore_context context = 0;
  auxcore_ema_table table = 0, other = 0;
  uint64_t source = 0, average = 0, twin = 0;
  void* made = nullptr;
  CUcontext primary = nullptr;
  CUgraph graph = nullptr;
  CUgraphExec executable = nullptr;
  OK(auxcore_open(AUXCORE_ABI_VERSION, 0, 0, &context));
  CHECK(graphs.retain(&primary, 0) == 0 && graphs.push(primary) == 0);
  OK(auxcore_stream_create(context, &made));
  const CUstream stream = static_cast<CUstream>(made);
  const std::vector<float> values(16, 1.0f / 3);
  OK(auxcore_allocate(context, 64, &source));
  OK(auxcore_copy_to_device(context, stream, source, values.data(), 64));
  for (uint64_t* memory : {&average, &twin}) {
    OK(auxcore_allocate(context, 32, memory));
    OK(auxcore_fill(context, stream, *memory, 0, 32));
  }
  const Group group = {{source, average}, {16}, {AUXCORE_FLOAT32}}, twins = {{source, twin}, {16}, {AUXCORE_FLOAT32}};
  auxcore_ema_tensors tensors = group.tensors(), others = twins.tensors();
  tensors.average_type = others.average_type = AUXCORE_BFLOAT16;
  const double keep = 1, most = 0.9;
  for (auxcore_ema_table* created : {&table, &other}) {
    OK(auxcore_ema_create(context, 1, created));
    OK(auxcore_ema_set_decays(*created, stream, &keep, 1));
    REFUSED(AUXCORE_E_ARGUMENT, "no rounding was set", auxcore_ema_update(*created, stream, &tensors));
    REFUSED(AUXCORE_E_ARGUMENT, "kind is 2", auxcore_ema_set_rounding(*created, stream, 2, 0, 0, 0));
    REFUSED(AUXCORE_E_ARGUMENT, "step is -1", auxcore_ema_set_rounding(*created, stream, AUXCORE_ROUND_NEAREST, 0, -1, 0));
    REFUSED(AUXCORE_E_ARGUMENT, "first_tensor is -1", auxcore_ema_set_rounding(*created, stream, AUXCORE_ROUND_NEAREST, 0, 0, -1));
    OK(auxcore_ema_set_rounding(*created, stream, AUXCORE_ROUND_STOCHASTIC, 9, 0, 0));
    OK(auxcore_ema_update(*created, stream, created == &table ? &tensors : &others));
  }

  CHECK(graphs.begin(stream, 2) == 0);  // relaxed
  OK(auxcore_ema_set_rounding(table, stream, AUXCORE_ROUND_STOCHASTIC, 9, 0, 0));  // what the table has
  REFUSED(AUXCORE_E_ARGUMENT, "set the rounding before the capture",
      auxcore_ema_set_rounding(table, stream, AUXCORE_ROUND_STOCHASTIC, 9, 1, 0));
  OK(auxcore_ema_update(table, stream, nullptr));
  CHECK(graphs.end(stream, &graph) == 0 && graphs.instantiate(&executable, graph, 0) == 0);

  OK(auxcore_ema_set_decays(table, stream, &most, 1));
  OK(auxcore_ema_set_decays(other, stream, &most, 1));
  std::vector<uint16_t> replayed(16), called(16), before(16);
  int moved = 0;
  for (int64_t step = 1; step < 6; ++step) {
    OK(auxcore_ema_set_rounding(table, stream, AUXCORE_ROUND_STOCHASTIC, 9, step, 0));
    CHECK(graphs.launch(executable, stream) == 0);
    OK(auxcore_ema_set_rounding(other, stream, AUXCORE_ROUND_STOCHASTIC, 9, step, 0));
    OK(auxcore_ema_update(other, stream, nullptr));
    OK(auxcore_copy_to_host(context, stream, replayed.data(), average, 32));
    OK(auxcore_copy_to_host(context, stream, called.data(), twin, 32));
    CHECK(replayed == called, "step %lld: %04x, not %04x", static_cast<long long>(step), replayed[0], called[0]);
    moved += replayed != before;
    before = replayed;
  }
  CHECK(moved == 5 && std::set<uint16_t>(replayed.begin(), replayed.end()).size() > 1, "equal elements are rounded each in its own way");
  CHECK(graphs.destroy_executable(executable) == 0 && graphs.destroy(graph) == 0);
  CHECK(graphs.pop(&primary) == 0 && graphs.release(0) == 0);
  OK(auxcore_close(context));
}

// The primary context outlives ours where somebody else retained it, as libtorch does: nothing of ours stays in it.
void nothing_stays_in_the_primary_context(const Standin& standin) {
  const Graphs driver;
  CUcontext primary = nullptr;
  auxcore_context context = 0;
  auxcore_ema_table table = 0;
  uint64_t source = 0, average = 0;
  void* stream = nullptr;
  CHECK(driver.retain(&primary, 0) == 0);
  OK(auxcore_open(AUXCORE_ABI_VERSION, 0, 0, &context));
  OK(auxcore_stream_create(context, &stream));
  OK(auxcore_allocate(context, 4096, &source));
  OK(auxcore_allocate(context, 4096, &average));
  OK(auxcore_fill(context, nullptr, source, 0, 4096));
  OK(auxcore_fill(context, nullptr, average, 0, 4096));
  OK(auxcore_ema_create(context, 1, &table));
  for (int64_t count = 1; count < 20; ++count) {
    const Group group = {{source, average}, {count}, {AUXCORE_FLOAT32}};
    const auxcore_ema_tensors tensors = group.tensors();
    OK(auxcore_ema_update(table, nullptr, &tensors));
    CHECK(standin.state().allocations == 4, "%lld after tables were replaced", static_cast<long long>(standin.state().allocations));
  }
  OK(auxcore_ema_destroy(table));
  CHECK(standin.state().allocations == 2 && standin.state().modules == 1);
  OK(auxcore_close(context));
  const auxcore_standin_state now = standin.state();
  CHECK(now.retained_contexts == 1 && now.allocations == 0 && now.modules == 0 && now.streams == 0);
  CHECK(driver.release(0) == 0);
}

void foreign_streams_and_devices_are_refused() {
  auxcore_context first = 0, second = 0;
  void* stream = nullptr;
  uint64_t on_first = 0, on_second = 0;
  auxcore_ema_table table = 0;
  OK(auxcore_open(AUXCORE_ABI_VERSION, 0, 0, &first));
  OK(auxcore_open(AUXCORE_ABI_VERSION, 1, 0, &second));
  OK(auxcore_stream_create(second, &stream));
  OK(auxcore_allocate(first, 64, &on_first));
  OK(auxcore_allocate(second, 64, &on_second));
  OK(auxcore_ema_create(first, 1, &table));
  const Group mixed = {{on_second, on_first}, {16}, {AUXCORE_FLOAT32}};
  const auxcore_ema_tensors tensors = mixed.tensors();
  const double half = 0.5;
  REFUSED(AUXCORE_E_ARGUMENT, "is of another context", auxcore_ema_update(table, stream, &tensors));
  REFUSED(AUXCORE_E_ARGUMENT, "is of another context", auxcore_ema_set_decays(table, stream, &half, 1));
  REFUSED(AUXCORE_E_ARGUMENT, "is of another context", auxcore_fill(first, stream, on_first, 0, 64));
  REFUSED(AUXCORE_E_ARGUMENT, "is of another context", auxcore_stream_wait(first, nullptr, stream));
  REFUSED(AUXCORE_E_ARGUMENT, "memory of device 1, not of device 0", auxcore_ema_update(table, nullptr, &tensors));
  REFUSED(AUXCORE_E_ARGUMENT, "memory of device 1, not of device 0", auxcore_copy_on_device(first, nullptr, on_first, on_second, 64));
  REFUSED(AUXCORE_E_ARGUMENT, "not allocated through", auxcore_free(first, on_second));
  REFUSED(AUXCORE_E_ARGUMENT, "not created through", auxcore_stream_destroy(first, stream));
  int on_stack = 0;
  CHECK(auxcore_stream_synchronize(first, &on_stack) == 400, "what is no stream is the driver's to refuse");
  OK(auxcore_close(first));
  OK(auxcore_close(second));
}

}  // namespace

int main() {
  const Standin standin;
  skip_without_device_code();
  every_call_may_fail(standin);
  a_captured_update_replays_with_other_decays();
  a_captured_update_replays_with_another_rounding();
  nothing_stays_in_the_primary_context(standin);
  foreign_streams_and_devices_are_refused();
  check_nothing_is_left(standin, "everything");
  return result();
}
