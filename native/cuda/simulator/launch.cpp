#include "launch.h"

namespace simt {
namespace {

// Kernels enlist while the program's static objects are made, in an order that nobody knows.
constinit const Kernel* kernels = nullptr;

}  // namespace

void Kernel::enlist() {
  next_ = kernels;
  kernels = this;
}

const Kernel* Kernel::find(const char* name) {
  for (const Kernel* kernel = kernels; kernel != nullptr; kernel = kernel->next_)
    if (std::strcmp(kernel->name_, name) == 0)
      return kernel;
  return nullptr;
}

void Kernel::launch(const Shape& shape, const unsigned char* buffer) const {
  const auto bound = [this, buffer] { call_(*this, buffer); };
  run(name_, shape, {&bound, [](const void* closure) { (*static_cast<const decltype(bound)*>(closure))(); }});
}

}  // namespace simt
