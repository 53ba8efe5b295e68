// AdamWUpdate and GradientNorm through the C ABI: against the formula, what is refused, clipping without the host, captured graphs.
#include <string>
#include <type_traits>

#include "../simulator/standin_cuda.h"
#include "library.h"

using namespace auxcore::test;

namespace {

constexpr auxcore_adamw_settings kPlain = {1, 0, 0.1f, 0.001f, 1e-8f, 1e-3f, 0}, kOther = {-0.5, 0.1f, 0.5f, 0.25f, 1e-3f, 0.25f, 0.01f};

/// Rows of one AdamWUpdate, as the C ABI takes them.
struct Rows {
  std::vector<uint64_t> addresses;
  std::vector<int64_t> counts;
  std::vector<auxcore_dtype> parameter_types, gradient_types;
  std::vector<int32_t> settings_of;

  void add(std::vector<uint64_t> row, int64_t count, int32_t settings = 0, auxcore_dtype parameter_type = AUXCORE_FLOAT32,
      auxcore_dtype gradient_type = AUXCORE_FLOAT32) {
    addresses.insert(addresses.end(), row.begin(), row.end());
    counts.push_back(count);
    parameter_types.push_back(parameter_type);
    gradient_types.push_back(gradient_type);
    settings_of.push_back(settings);
  }

  auxcore_adamw_tensors tensors() const {
    return {sizeof(auxcore_adamw_tensors), 0, static_cast<int64_t>(counts.size()), addresses.data(), counts.data(),
        parameter_types.data(), gradient_types.data(), settings_of.data()};
  }
};

/// A float32 parameter on the device and what it should be, with one average.
struct Parameter {
  std::size_t count;
  std::vector<float> p, g, m, v, e;
  uint64_t on_device[5];

  explicit Parameter(std::size_t count_, int seed = 1)
      : count(count_), p(pattern(count, seed)), g(pattern(count, seed + 1)), m(pattern(count, seed + 2)), v(pattern(count, seed + 3)),
        e(pattern(count, seed + 4)) {
    for (float& value : v)
      value = std::fabs(value);
    int i = 0;
    for (const auto* values : {&p, &g, &m, &v, &e})
      on_device[i++] = device_copy(values->empty() ? std::vector<float>(1) : *values);
  }

  std::vector<uint64_t> row() const { return {on_device[0], 0, on_device[1], on_device[2], on_device[3], on_device[4]}; }

  void step(const auxcore_adamw_settings& s, double decay, double factor = 1) {
    for (std::size_t i = 0; i < count; ++i) {
      const float gradient = std::fma(s.penalty, p[i], static_cast<float>(s.gradient_scale * factor) * g[i]);
      m[i] = std::fma(s.weight1, gradient, std::fma(-s.weight1, m[i], m[i]));
      v[i] = std::fma(s.weight2 * gradient, gradient, std::fma(-s.weight2, v[i], v[i]));
      p[i] = std::fma(-s.step_size, m[i] / (std::sqrt(v[i]) + s.epsilon), std::fma(-s.shrinkage, p[i], p[i]));
      e[i] = decay == 1 || p[i] == e[i] ? e[i] : std::fma(static_cast<float>(1 - decay), p[i] - e[i], e[i]);
    }
  }

  void check(const char* when) const {
    CHECK(host_copy(on_device[0], count) == p, "the parameter %s", when);
    CHECK(host_copy(on_device[2], count) == m, "the first moment %s", when);
    CHECK(host_copy(on_device[3], count) == v, "the second moment %s", when);
    CHECK(host_copy(on_device[4], count) == e, "the average %s", when);
  }

  void free() {
    for (uint64_t address : on_device)
      OK(auxcore_free(context, address));
  }
};

// Sizes of several pieces, an empty one, one without a gradient, two kinds of settings; settings and tensors that change from step to step.
void steps_agree_with_the_formula() {
  std::vector<Parameter> parameters;
  Rows rows;
  for (const std::size_t count : {std::size_t{1}, std::size_t{0}, std::size_t{255}, std::size_t{1024}, std::size_t{5000},
      std::size_t{77}}) {
    Parameter& parameter = parameters.emplace_back(count, static_cast<int>(count));
    rows.add(parameter.row(), static_cast<int64_t>(count), static_cast<int32_t>(parameters.size() % 2));
  }
  auxcore_adamw_table table = 0;
  OK(auxcore_adamw_create(context, 1, &table));
  auxcore_adamw_settings settings[2] = {kPlain, kOther};
  const auxcore_adamw_tensors tensors = rows.tensors();
  for (const double decay : {0.999, 1.0, 0.9}) {
    settings[0].step_size *= 2;
    OK(auxcore_adamw_set(table, nullptr, settings, 2, &decay));
    OK(auxcore_adamw_update(table, nullptr, decay == 0.9 ? nullptr : &tensors, 0));
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      parameters[i].step(settings[rows.settings_of[i]], decay);
      parameters[i].check("after a step");
    }
  }

  // Without a gradient a parameter stays as it is; one may be without averages.
  rows.addresses[2 * 6 + 2] = 0;
  rows.addresses[3 * 6 + 5] = 0;
  const auxcore_adamw_tensors fewer = rows.tensors();
  const double decay = 0.9;
  OK(auxcore_adamw_update(table, nullptr, &fewer, 0));
  for (std::size_t i = 0; i < parameters.size(); ++i)
    if (i != 2)
      parameters[i].step(settings[rows.settings_of[i]], i == 3 ? 1 : decay);
  for (const Parameter& parameter : parameters)
    parameter.check("with some left alone");
  OK(auxcore_adamw_destroy(table));
  for (Parameter& parameter : parameters)
    parameter.free();
}

void sixteen_bits_have_masters() {
  const float values[] = {1, -2, 0.5f, 3};
  const uint16_t brains[] = {0x3f80, 0xc000, 0x3f00, 0x4040}, ones[] = {0x3c00, 0x3c00, 0x3c00, 0x3c00};  // bfloat16, float16
  uint64_t parameter = 0, gradient = 0;
  const uint64_t master = device_copy({values, values + 4}), m = device_copy(std::vector<float>(4)), v = device_copy(std::vector<float>(4));
  OK(auxcore_allocate(context, 8, &parameter));
  OK(auxcore_allocate(context, 8, &gradient));
  OK(auxcore_copy_to_device(context, nullptr, parameter, brains, 8));
  OK(auxcore_copy_to_device(context, nullptr, gradient, ones, 8));
  auxcore_adamw_table table = 0;
  OK(auxcore_adamw_create(context, 0, &table));
  auxcore_adamw_settings settings = kPlain;
  settings.step_size = 0.001f * std::sqrt(0.001f) / 0.1f;  // a first step of 0.001
  OK(auxcore_adamw_set(table, nullptr, &settings, 1, nullptr));
  Rows rows;
  rows.add({parameter, master, gradient, m, v}, 4, 0, AUXCORE_BFLOAT16, AUXCORE_FLOAT16);
  const auxcore_adamw_tensors tensors = rows.tensors();
  OK(auxcore_adamw_update(table, nullptr, &tensors, 0));
  const std::vector<float> stepped = host_copy(master, 4);
  uint16_t now[4];
  OK(auxcore_copy_to_host(context, nullptr, now, parameter, 8));
  for (int i = 0; i < 4; ++i)
    CHECK(std::fabs(stepped[static_cast<std::size_t>(i)] - (values[i] - 0.001f)) < 1e-6f, "%g", stepped[static_cast<std::size_t>(i)]);
  CHECK(now[0] == 0x3f80 && now[1] == 0xc000 && now[2] == 0x3eff, "rounded, most do not move yet: %x %x %x", now[0], now[1], now[2]);
  OK(auxcore_adamw_destroy(table));
  for (uint64_t address : {parameter, gradient, master, m, v})
    OK(auxcore_free(context, address));
}

void clipping_needs_no_host() {
  Parameter parameter(3000), other(50, 9);
  Rows rows;
  rows.add(parameter.row(), 3000);
  rows.add(other.row(), 50);
  auxcore_adamw_table table = 0;
  OK(auxcore_adamw_create(context, 1, &table));
  const double decay = 0.9;
  OK(auxcore_adamw_set(table, nullptr, &kPlain, 1, &decay));
  const auxcore_adamw_tensors tensors = rows.tensors();
  double sum = -1;
  int64_t non_finite = -1;
  REFUSED(AUXCORE_E_ARGUMENT, "no norm before", auxcore_adamw_update(table, nullptr, &tensors, AUXCORE_ADAMW_CLIPPED));
  REFUSED(AUXCORE_E_ARGUMENT, "no norm before", auxcore_adamw_read_norm(table, nullptr, &sum, &non_finite));

  double expected = 0;  // multiples of 1/256, so exact in any order
  for (const Parameter* each : {&parameter, &other})
    for (float g : each->g)
      expected += double(g) * g;
  OK(auxcore_adamw_norm(table, nullptr, &tensors, 0.5, 2, 1));
  OK(auxcore_adamw_update(table, nullptr, nullptr, AUXCORE_ADAMW_CLIPPED));
  OK(auxcore_adamw_read_norm(table, nullptr, &sum, &non_finite));
  CHECK(sum == expected && non_finite == 0, "%g, not %g; %lld", sum, expected, static_cast<long long>(non_finite));
  const double factor = 2 / (std::sqrt(expected) * 0.5 + 1e-6);
  parameter.step(kPlain, decay, factor);
  other.step(kPlain, decay, factor);
  parameter.check("clipped");
  other.check("clipped");

  // What is not finite is skipped, everywhere.
  const float infinity = HUGE_VALF;
  OK(auxcore_copy_to_device(context, nullptr, parameter.on_device[1] + 40, &infinity, 4));
  OK(auxcore_adamw_norm(table, nullptr, nullptr, 1, 2, 1));
  OK(auxcore_adamw_update(table, nullptr, nullptr, AUXCORE_ADAMW_CLIPPED));
  OK(auxcore_adamw_read_norm(table, nullptr, &sum, &non_finite));
  CHECK(std::isinf(sum) && non_finite == 1, "%g, %lld", sum, static_cast<long long>(non_finite));
  parameter.check("skipped");
  other.check("skipped");
  OK(auxcore_adamw_destroy(table));
  parameter.free();
  other.free();
}

void arguments_are_checked() {
  Parameter parameter(64), other(64, 7);
  auxcore_adamw_table table = 0;
  REFUSED(AUXCORE_E_ARGUMENT, "average_count is -1", auxcore_adamw_create(context, -1, &table));
  REFUSED(AUXCORE_E_ARGUMENT, "average_count is 5", auxcore_adamw_create(context, 5, &table));
  REFUSED(AUXCORE_E_ARGUMENT, "table is NULL", auxcore_adamw_create(context, 1, nullptr));
  OK(auxcore_adamw_create(context, 1, &table));

  const double half = 0.5, wrong = 1.5;
  auxcore_adamw_settings bad = kPlain;
  bad.epsilon = NAN;
  REFUSED(AUXCORE_E_ARGUMENT, "settings is NULL", auxcore_adamw_set(table, nullptr, nullptr, 1, &half));
  REFUSED(AUXCORE_E_ARGUMENT, "decays is NULL", auxcore_adamw_set(table, nullptr, &kPlain, 1, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "0 settings", auxcore_adamw_set(table, nullptr, &kPlain, 0, &half));
  REFUSED(AUXCORE_E_ARGUMENT, "settings[0] has nan", auxcore_adamw_set(table, nullptr, &bad, 1, &half));
  REFUSED(AUXCORE_E_ARGUMENT, "decays[0] is 1.5", auxcore_adamw_set(table, nullptr, &kPlain, 1, &wrong));

  Rows right;
  right.add(parameter.row(), 64);
  right.add(other.row(), 64);
  const auxcore_adamw_tensors tensors = right.tensors();
  REFUSED(AUXCORE_E_ARGUMENT, "no settings were set", auxcore_adamw_update(table, nullptr, &tensors, 0));
  OK(auxcore_adamw_set(table, nullptr, &kPlain, 1, &half));
  REFUSED(AUXCORE_E_ARGUMENT, "no call with tensors before", auxcore_adamw_update(table, nullptr, nullptr, 0));
  REFUSED(AUXCORE_E_ARGUMENT, "flags are 0x2", auxcore_adamw_update(table, nullptr, &tensors, 2));
  for (const double scale : {-1.0, HUGE_VAL, double(NAN)})
    REFUSED(AUXCORE_E_ARGUMENT, "scale is", auxcore_adamw_norm(table, nullptr, &tensors, scale, 1, 0));
  for (const double greatest : {-1.0, HUGE_VAL, double(NAN)})
    REFUSED(AUXCORE_E_ARGUMENT, "greatest is", auxcore_adamw_norm(table, nullptr, &tensors, 1, greatest, 0));
  double sum = 0;
  REFUSED(AUXCORE_E_ARGUMENT, "is NULL", auxcore_adamw_read_norm(table, nullptr, &sum, nullptr));

  const auto refused = [&](const char* text, auto&& change, auto&& change_struct) {
    Rows rows = right;
    change(rows);
    auxcore_adamw_tensors given = rows.tensors();
    change_struct(given);
    REFUSED(AUXCORE_E_ARGUMENT, text, auxcore_adamw_update(table, nullptr, &given, 0));
    REFUSED(AUXCORE_E_ARGUMENT, text, auxcore_adamw_norm(table, nullptr, &given, 1, 0, 0));
  };
  const auto same = [](auto&) {};
  refused("tensor_count is -1", same, [](auxcore_adamw_tensors& given) { given.tensor_count = -1; });
  refused("tensor_count is", same, [](auxcore_adamw_tensors& given) { given.tensor_count = INT64_MAX; });
  refused("reserved is 1", same, [](auxcore_adamw_tensors& given) { given.reserved = 1; });
  refused("is NULL", same, [](auxcore_adamw_tensors& given) { given.addresses = nullptr; });
  refused("is NULL", same, [](auxcore_adamw_tensors& given) { given.element_counts = nullptr; });
  refused("is NULL", same, [](auxcore_adamw_tensors& given) { given.parameter_types = nullptr; });
  refused("is NULL", same, [](auxcore_adamw_tensors& given) { given.gradient_types = nullptr; });
  refused("is NULL", same, [](auxcore_adamw_tensors& given) { given.settings_of = nullptr; });
  const auto refused_rows = [&](const char* text, auto&& change) { refused(text, change, same); };
  refused_rows("parameters[1]: type 1", [](Rows& rows) { rows.parameter_types[1] = 1; });
  refused_rows("parameters[1]: a 16-bit type needs a float32 master", [](Rows& rows) { rows.parameter_types[1] = AUXCORE_BFLOAT16; });
  refused_rows("parameters[1]: a float32 parameter is its own master", [&](Rows& rows) { rows.addresses[7] = parameter.on_device[1]; });
  refused_rows("gradients[0]: type 5", [](Rows& rows) { rows.gradient_types[0] = 5; });
  refused_rows("parameters[0]: -1 elements", [](Rows& rows) { rows.counts[0] = -1; });
  refused_rows("elements", [](Rows& rows) { rows.counts[0] = INT64_MAX; });
  refused_rows("parameters[0]: 0x", [](Rows& rows) { rows.counts[0] = int64_t{1} << 50; });
  refused_rows("parameters[0]: 0x0", [](Rows& rows) { rows.addresses[0] = 0; });
  refused_rows("firstMoments[0]: 0x0", [](Rows& rows) { rows.addresses[3] = 0; });
  refused_rows("secondMoments[1]: 0x0", [](Rows& rows) { rows.addresses[10] = 0; });
  refused_rows("settings_of[1] is -1", [](Rows& rows) { rows.settings_of[1] = -1; });
  refused_rows("is not aligned to its elements of 4", [](Rows& rows) {
    rows.addresses[3] += 2;
    rows.counts[0] = 8;
  });
  refused_rows("parameters[1] overlaps parameters[0]", [](Rows& rows) { rows.addresses[6] = rows.addresses[0]; });
  refused_rows("averages[0][1] overlaps gradients[0]", [](Rows& rows) {
    rows.addresses[11] = rows.addresses[2] + 16;
    rows.counts[1] = 8;
  });
  refused_rows("secondMoments[0] overlaps firstMoments[0]", [](Rows& rows) { rows.addresses[4] = rows.addresses[3]; });
  auxcore_adamw_tensors short_struct = tensors;
  short_struct.struct_size = 8;
  REFUSED(AUXCORE_E_ABI, "struct_size is 8", auxcore_adamw_update(table, nullptr, &short_struct, 0));
  Rows beyond = right;
  beyond.settings_of[1] = 1;
  const auxcore_adamw_tensors further = beyond.tensors();
  REFUSED(AUXCORE_E_ARGUMENT, "a parameter follows settings[1]; there are 1", auxcore_adamw_update(table, nullptr, &further, 0));
  parameter.check("after what was refused");
  other.check("after what was refused");

  // Gradients may share memory; nothing at all is fine.
  Rows shared = right;
  shared.addresses[8] = shared.addresses[2];
  const auxcore_adamw_tensors tied = shared.tensors(), none = Rows{}.tensors();
  OK(auxcore_adamw_update(table, nullptr, &tied, 0));
  OK(auxcore_adamw_update(table, nullptr, &none, 0));
  OK(auxcore_adamw_norm(table, nullptr, &none, 1, 1, 0));
  OK(auxcore_adamw_destroy(table));
  REFUSED(AUXCORE_E_HANDLE, "AdamW table", auxcore_adamw_update(table, nullptr, &tensors, 0));
  parameter.free();
  other.free();
}

/// The driver's graph functions, which the library itself does not need.
template <class Function>
Function* driver(const char* name) {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  return reinterpret_cast<Function*>(dlsym(library, name));
}

// A whole step in a graph: the norm, and the clipped update that goes by it. It replays with other settings, decays and gradients.
void a_captured_step_replays_with_other_settings() {
  void* made = nullptr;
  CUcontext primary = nullptr;
  CUgraph graph = nullptr;
  CUgraphExec executable = nullptr;
  CHECK(driver<std::remove_pointer_t<decltype(&cuDevicePrimaryCtxRetain)>>("cuDevicePrimaryCtxRetain")(&primary, 0) == 0);
  CHECK(driver<std::remove_pointer_t<decltype(&cuCtxPushCurrent_v2)>>("cuCtxPushCurrent_v2")(primary) == 0);
  OK(auxcore_stream_create(context, &made));
  const CUstream stream = static_cast<CUstream>(made);
  Parameter parameter(700);
  Rows rows, others;
  rows.add(parameter.row(), 700);
  others.add(parameter.row(), 600);
  const auxcore_adamw_tensors tensors = rows.tensors(), other_tensors = others.tensors();
  auxcore_adamw_table table = 0;
  OK(auxcore_adamw_create(context, 1, &table));
  const double decay = 0.9, faster = 0.75;
  OK(auxcore_adamw_set(table, made, &kPlain, 1, &decay));
  OK(auxcore_stream_synchronize(context, nullptr));
  OK(auxcore_adamw_norm(table, made, &tensors, 1, 3, 1));
  OK(auxcore_adamw_update(table, made, &tensors, AUXCORE_ADAMW_CLIPPED));
  const auto clipped = [&] {
    double sum = 0;
    for (float g : parameter.g)
      sum += double(g) * g;
    return std::fmin(1, 3 / (std::sqrt(sum) + 1e-6));
  };
  parameter.step(kPlain, decay, clipped());

  CHECK(driver<std::remove_pointer_t<decltype(&cuStreamBeginCapture_v2)>>("cuStreamBeginCapture_v2")(stream, 2) == 0);  // relaxed
  double sum;
  int64_t non_finite;
  OK(auxcore_adamw_set(table, made, &kPlain, 1, &decay));  // what the table has
  REFUSED(AUXCORE_E_ARGUMENT, "set settings and decays before", auxcore_adamw_set(table, made, &kOther, 1, &decay));
  REFUSED(AUXCORE_E_ARGUMENT, "set settings and decays before", auxcore_adamw_set(table, made, &kPlain, 1, &faster));
  REFUSED(AUXCORE_E_ARGUMENT, "one call with these tensors before", auxcore_adamw_update(table, made, &other_tensors, 0));
  REFUSED(AUXCORE_E_ARGUMENT, "read the norm after a replay", auxcore_adamw_read_norm(table, made, &sum, &non_finite));
  OK(auxcore_adamw_norm(table, made, &tensors, 1, 3, 1));
  OK(auxcore_adamw_update(table, made, &tensors, AUXCORE_ADAMW_CLIPPED));
  CHECK(driver<std::remove_pointer_t<decltype(&cuStreamEndCapture)>>("cuStreamEndCapture")(stream, &graph) == 0);
  CHECK(driver<std::remove_pointer_t<decltype(&cuGraphInstantiateWithFlags)>>("cuGraphInstantiateWithFlags")(&executable, graph, 0) == 0);

  for (int replay = 0; replay < 4; ++replay) {
    auxcore_adamw_settings settings = replay % 2 == 0 ? kPlain : kOther;
    settings.gradient_scale = std::fabs(settings.gradient_scale);
    settings.step_size /= static_cast<float>(replay + 1);
    const double now = replay % 2 == 0 ? decay : faster;
    parameter.g = pattern(700, replay);
    if (replay == 2)
      parameter.g[699] = NAN;
    OK(auxcore_copy_to_device(context, made, parameter.on_device[1], parameter.g.data(), 2800));
    OK(auxcore_adamw_set(table, made, &settings, 1, &now));
    CHECK(driver<std::remove_pointer_t<decltype(&cuGraphLaunch)>>("cuGraphLaunch")(executable, stream) == 0);
    OK(auxcore_adamw_read_norm(table, made, &sum, &non_finite));
    CHECK(non_finite == (replay == 2 ? 1 : 0));
    if (replay != 2)
      parameter.step(settings, now, clipped());
    parameter.check("after a replay");
  }
  CHECK(driver<std::remove_pointer_t<decltype(&cuGraphExecDestroy)>>("cuGraphExecDestroy")(executable) == 0);
  CHECK(driver<std::remove_pointer_t<decltype(&cuGraphDestroy)>>("cuGraphDestroy")(graph) == 0);
  OK(auxcore_adamw_destroy(table));
  parameter.free();
  OK(auxcore_stream_destroy(context, made));
  CHECK(driver<std::remove_pointer_t<decltype(&cuCtxPopCurrent_v2)>>("cuCtxPopCurrent_v2")(&primary) == 0);
  CHECK(driver<std::remove_pointer_t<decltype(&cuDevicePrimaryCtxRelease_v2)>>("cuDevicePrimaryCtxRelease_v2")(0) == 0);
}

}  // namespace

int main() {
  open_or_skip();
  skip_without_device_code();
  steps_agree_with_the_formula();
  sixteen_bits_have_masters();
  clipping_needs_no_host();
  arguments_are_checked();
  a_captured_step_replays_with_other_settings();
  OK(auxcore_close(context));
  return result();
}
