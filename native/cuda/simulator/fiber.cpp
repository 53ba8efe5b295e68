#include "fiber.h"

#include "sanitizers.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace simt {
namespace {

// Pages are only used once touched, so there is room for the larger frames of instrumented code.
constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kGuardBytes = 4096;

// Who switched last on this host thread, and to whom: the arriving side asks.
thread_local Fiber* departed = nullptr;
thread_local Fiber* running = nullptr;

}  // namespace

#if !defined(SIMT_USES_UCONTEXT)
// Saves what a call must preserve on the stack that it leaves, and takes it from the one that it enters.
extern "C" void simt_switch_stack(void** leave, void* enter);
asm(R"(
  .text
  .p2align 4
  .hidden simt_switch_stack
  .globl simt_switch_stack
  .type simt_switch_stack, @function
simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size simt_switch_stack, .-simt_switch_stack
)");
#endif

Fiber::Fiber() {
#if defined(SIMT_THREAD_SANITIZER)
  race_checker_ = __tsan_get_current_fiber();
#endif
}

Fiber::Fiber(void (*entry)()) {
  mapping_ = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED || mprotect(mapping_, kGuardBytes, PROT_NONE) != 0) {
    std::perror("simulator: no memory for the stack of a thread");
    std::abort();
  }
  char* stack = static_cast<char*>(mapping_) + kGuardBytes;
  stack_ = stack;
  stack_bytes_ = kStackBytes;
#if defined(SIMT_USES_UCONTEXT)
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = kStackBytes;
  makecontext(&context_, entry, 0);
#else
  // As simt_switch_stack leaves a stack: six registers, then where to return to. Above it the return address that entry never uses, so
  // that the stack is aligned as after a call.
  void** top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i)
    *--top = nullptr;
  stack_pointer_ = top;
#endif
#if defined(SIMT_THREAD_SANITIZER)
  race_checker_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
  if (mapping_ == nullptr)
    return;
#if defined(SIMT_THREAD_SANITIZER)
  __tsan_destroy_fiber(race_checker_);
#endif
#if defined(SIMT_ADDRESS_SANITIZER)
  // A fiber that was given up in the middle leaves the marks of its frames.
  ASAN_UNPOISON_MEMORY_REGION(mapping_, kGuardBytes + kStackBytes);
#endif
  munmap(mapping_, kGuardBytes + kStackBytes);
}

void Fiber::switch_to(Fiber& to) {
  departed = this;
  running = &to;
#if defined(SIMT_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(&fake_stack_, to.stack_, to.stack_bytes_);
#endif
#if defined(SIMT_THREAD_SANITIZER)
  __tsan_switch_to_fiber(to.race_checker_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(SIMT_USES_UCONTEXT)
  swapcontext(&context_, &to.context_);
#else
  simt_switch_stack(&stack_pointer_, to.stack_pointer_);
#endif
  arrived();
}

void Fiber::release([[maybe_unused]] char& tag) {
#if defined(SIMT_THREAD_SANITIZER)
  void* const running_checker = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(race_checker_, __tsan_switch_to_fiber_no_sync);
  simt::release(tag);
  __tsan_switch_to_fiber(running_checker, __tsan_switch_to_fiber_no_sync);
#endif
}

void Fiber::entered() { running->arrived(); }

void Fiber::arrived() {
#if defined(SIMT_ADDRESS_SANITIZER)
  // Also tells where the host thread's own stack is.
  __sanitizer_finish_switch_fiber(fake_stack_, &departed->stack_, &departed->stack_bytes_);
#endif
}

}  // namespace simt
