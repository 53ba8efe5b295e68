#include "fault.h"

#include "block.h"

#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

namespace simt {
namespace {

struct sigaction before;
pthread_t guarded;

void pass_on(int signal, siginfo_t* info, void* context) {
  if (before.sa_flags & SA_SIGINFO)
    return before.sa_sigaction(signal, info, context);
  if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
    return before.sa_handler(signal);
  sigaction(SIGSEGV, &before, nullptr);  // and the access faults again
}

void handle(int signal, siginfo_t* info, void* context) {
  // Wherever it pointed: a kernel whose table was freed and used for something else follows addresses that never were any.
  if (!pthread_equal(pthread_self(), guarded) || !in_kernel())
    return pass_on(signal, info, context);
#if defined(__x86_64__)
  // The handler returns into abandon, on the kernel's stack below what it may still use, aligned as after a call.
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  registers[REG_RSP] = ((registers[REG_RSP] - 256) & ~greg_t(15)) - 8;
  registers[REG_RDI] = reinterpret_cast<greg_t>(info->si_addr);
  registers[REG_RIP] = reinterpret_cast<greg_t>(&abandon);
#else
  pass_on(signal, info, context);
#endif
}

}  // namespace

FaultGuard::FaultGuard() {
  guarded = pthread_self();
  struct sigaction action = {};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGSEGV, &action, &before);
}

FaultGuard::~FaultGuard() { sigaction(SIGSEGV, &before, nullptr); }

}  // namespace simt
