// A library that was built without device code does everything but launch, and says how to get what it lacks.
#include "library.h"

using namespace auxcore::test;

int main() {
  const Standin standin;
  CHECK(std::strcmp(auxcore_device_image(), "none") == 0, "%s", auxcore_device_image());
  open_or_skip();
  const std::vector<float> values = pattern(64, 1);
  const uint64_t source = device_copy(values), average = device_copy(std::vector<float>(64, 5.0f));
  CHECK(host_copy(source, 64) == values);
  auxcore_ema_table table = 0;
  OK(auxcore_ema_create(context, 1, &table));
  const Group group = {{source, average}, {64}, {AUXCORE_FLOAT32}};
  const auxcore_ema_tensors tensors = group.tensors();
  const double half = 0.5;
  for (int time = 0; time < 2; ++time) {
    REFUSED(AUXCORE_E_NO_IMAGE, "install clang-19 or CUDA's nvcc and build it again", auxcore_ema_set_decays(table, nullptr, &half, 1));
    REFUSED(AUXCORE_E_NO_IMAGE, "built without device code", auxcore_ema_update(table, nullptr, &tensors));
  }
  CHECK(host_copy(average, 64) == std::vector<float>(64, 5.0f), "what was refused was not done");
  OK(auxcore_ema_destroy(table));
  auxcore_adamw_table adamw = 0;
  OK(auxcore_adamw_create(context, 0, &adamw));
  const auxcore_adamw_settings settings = {1, 0, 0.1f, 0.001f, 1e-8f, 1e-3f, 0};
  REFUSED(AUXCORE_E_NO_IMAGE, "built without device code", auxcore_adamw_set(adamw, nullptr, &settings, 1, nullptr));
  OK(auxcore_adamw_destroy(adamw));
  OK(auxcore_close(context));
  const auxcore_standin_state now = standin.state();
  CHECK(now.allocations == 0 && now.retained_contexts == 0 && now.modules == 0);
  return result();
}
