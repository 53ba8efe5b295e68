// Launching kernels in the simulator, from the host.
#pragma once

#include "thread.h"

#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace simt {

/// A kernel with its arguments bound, called once a CUDA thread.
struct Body {
  const void* closure;
  void (*call)(const void* closure);
};

struct Shape {
  Extent grid, block;
  size_t dynamic_shared_bytes = 0;
};

/// Runs the blocks one after another, in the order set below, on the calling host thread and returns when all are done. What a kernel
/// does wrong ends the process with a message.
void run(const char* kernel, const Shape& shape, const Body& body);

/// In which order the blocks of a grid run, and the threads of a block between barriers: 0 forward, 1 backward, another value shuffles
/// by it.
void set_run_order(uint32_t order);

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Shape& shape, Arguments&&... arguments) {
  const auto bound = [&] { kernel(static_cast<Parameters>(arguments)...); };
  run("launched directly", shape, {&bound, [](const void* closure) { (*static_cast<const decltype(bound)*>(closure))(); }});
}

/// A kernel that can be found by its name and launched from a buffer of parameters, as a driver does.
class Kernel {
 public:
  struct Parameter {
    size_t offset, bytes;
  };

  template <class... Parameters>
  Kernel(const char* name, void (*kernel)(Parameters...)) : name_(name), kernel_(reinterpret_cast<void (*)()>(kernel)) {
    static_assert((std::is_trivially_copyable_v<Parameters> && ...), "parameters travel as bytes");
    (append(sizeof(Parameters), alignof(Parameters)), ...);
    call_ = [](const Kernel& self, const unsigned char* buffer) {
      self.call<Parameters...>(buffer, std::index_sequence_for<Parameters...>{});
    };
    enlist();
  }

  const char* name() const { return name_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  size_t parameter_bytes() const { return bytes_; }

  void launch(const Shape& shape, const unsigned char* buffer) const;

  /// nullptr where there is none of that name.
  static const Kernel* find(const char* name);

 private:
  void append(size_t bytes, size_t alignment) {
    const size_t offset = (bytes_ + alignment - 1) / alignment * alignment;
    parameters_.push_back({offset, bytes});
    bytes_ = offset + bytes;
  }

  template <class... Parameters, size_t... kIndex>
  void call(const unsigned char* buffer, std::index_sequence<kIndex...>) const {
    reinterpret_cast<void (*)(Parameters...)>(kernel_)(read<Parameters>(buffer + parameters_[kIndex].offset)...);
  }

  template <class T>
  static T read(const unsigned char* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }

  void enlist();

  const char* name_;
  void (*kernel_)();
  void (*call_)(const Kernel&, const unsigned char*) = nullptr;
  std::vector<Parameter> parameters_;
  size_t bytes_ = 0;
  const Kernel* next_ = nullptr;
};

}  // namespace simt
