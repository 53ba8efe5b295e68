// A fiber: a stack of its own to run on, switched to and from by hand. The simulator runs each CUDA thread on one.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) || defined(SIMT_UCONTEXT)
#  define SIMT_USES_UCONTEXT 1
#  include <ucontext.h>
#endif

namespace simt {

class Fiber {
 public:
  /// The host thread that constructs it, on the stack that it has.
  Fiber();

  /// Runs entry, which must never return, when first switched to.
  explicit Fiber(void (*entry)());

  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Called on this fiber: goes on with `to`, and returns when someone switches back. ThreadSanitizer is told that this orders nothing.
  void switch_to(Fiber& to);

  /// Everything that ran on this fiber, which does not run now, happens before the acquisitions of the tag that follow.
  void release(char& tag);

  /// What entry has to call first.
  static void entered();

 private:
  void arrived();

#if defined(SIMT_USES_UCONTEXT)
  ucontext_t context_{};
#else
  void* stack_pointer_ = nullptr;
#endif
  void* mapping_ = nullptr;
  const void* stack_ = nullptr;
  size_t stack_bytes_ = 0;
  [[maybe_unused]] void* fake_stack_ = nullptr;    ///< AddressSanitizer's
  [[maybe_unused]] void* race_checker_ = nullptr;  ///< ThreadSanitizer's fiber
};

}  // namespace simt
