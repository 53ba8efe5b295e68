#include "standin_memory.h"

#include "sanitizers.h"
#include "standin_state.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace standin {
namespace {

// Addresses are handed out once, so that memory used after it was freed is never somebody else's.
constexpr uint64_t kReserved = uint64_t(256) << 30;
constexpr uint64_t kPage = 4096;
constexpr uint64_t kGuard = 4 * kPage;
constexpr uint64_t kAlignment = 256;
constexpr int kPoison = 0xcb;

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

unsigned char* map(int protection, int file) {
  void* view = mmap(nullptr, kReserved, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
  if (view == MAP_FAILED) {
    std::perror("stand-in: device memory cannot be reserved");
    std::abort();
  }
  return static_cast<unsigned char*>(view);
}

/// Tells AddressSanitizer, which sees kernels' accesses, what of an allocation's pages is not the allocation.
void mark_slack([[maybe_unused]] CUdeviceptr address, [[maybe_unused]] size_t bytes) {
#if defined(SIMT_ADDRESS_SANITIZER)
  const auto pointer = [](uint64_t value) { return reinterpret_cast<void*>(value); };
  const uint64_t first = address / kPage * kPage, last = round_up(address + bytes, kPage);
  ASAN_POISON_MEMORY_REGION(pointer(first), last - first);
  ASAN_UNPOISON_MEMORY_REGION(pointer(address), bytes);
#endif
}

}  // namespace

Memory::Memory() {
  file_ = memfd_create("auxcore_standin", MFD_CLOEXEC);
  if (file_ < 0 || ftruncate(file_, kReserved) != 0) {
    std::perror("stand-in: device memory cannot be made");
    std::abort();
  }
  device_view_ = map(PROT_NONE, file_);
  host_view_ = map(PROT_READ | PROT_WRITE, file_);
}

Memory::~Memory() {
  munmap(device_view_, kReserved);
  munmap(host_view_, kReserved);
  close(file_);
}

CUdeviceptr Memory::allocate(size_t bytes, const Context& context) {
  // At the end of its pages, so that an overrun meets the guard.
  const uint64_t used = round_up(bytes, kAlignment), pages = round_up(used, kPage);
  if (bytes > kReserved || pages + kGuard > kReserved - next_)
    return 0;
  const CUdeviceptr address = reinterpret_cast<CUdeviceptr>(device_view_) + next_ + (pages - used);
  allocations_[address] = {bytes, &context};
  std::memset(host_view_ + next_, kPoison, pages);
  next_ += pages + kGuard;
  mark_slack(address, bytes);
  return address;
}

bool Memory::free(CUdeviceptr address) {
  const auto found = allocations_.find(address);
  if (found == allocations_.end())
    return false;
  release(address, found->second.bytes);
  allocations_.erase(found);
  return true;
}

void Memory::free_all(const Context& context) {
  for (auto next = allocations_.begin(); next != allocations_.end();) {
    const auto [address, allocation] = *next;
    if (allocation.context == &context) {
      release(address, allocation.bytes);
      next = allocations_.erase(next);
    } else {
      ++next;
    }
  }
}

void Memory::release(CUdeviceptr address, size_t bytes) {
  const uint64_t offset = address - reinterpret_cast<CUdeviceptr>(device_view_);
  const uint64_t first = offset / kPage * kPage;
  fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(first), off_t(round_up(offset + bytes, kPage) - first));
}

const std::pair<const CUdeviceptr, Allocation>* Memory::find(CUdeviceptr address) const {
  auto after = allocations_.upper_bound(address);
  if (after == allocations_.begin())
    return nullptr;
  --after;
  return address - after->first < after->second.bytes ? &*after : nullptr;
}

unsigned char* Memory::reach(CUdeviceptr address, size_t bytes) const {
  const auto* found = find(address);
  if (found == nullptr || bytes > found->second.bytes - (address - found->first))
    return nullptr;
  return host_view_ + (address - reinterpret_cast<CUdeviceptr>(device_view_));
}

bool Memory::contains(const void* address) const { return address >= device_view_ && address < device_view_ + kReserved; }

size_t Memory::bytes() const {
  size_t sum = 0;
  for (const auto& [address, allocation] : allocations_)
    sum += allocation.bytes;
  return sum;
}

size_t Memory::bytes(int device) const {
  size_t sum = 0;
  for (const auto& [address, allocation] : allocations_)
    sum += allocation.context->device == device ? allocation.bytes : 0;
  return sum;
}

void Memory::protect(int protection) const {
  for (const auto& [address, allocation] : allocations_) {
    const uint64_t first = address / kPage * kPage, last = round_up(address + allocation.bytes, kPage);
    mprotect(reinterpret_cast<void*>(first), last - first, protection);
  }
}

Memory::Open::Open(const Memory& memory) : memory_(memory) {
  memory_.protect(PROT_READ | PROT_WRITE);
}

Memory::Open::~Open() { memory_.protect(PROT_NONE); }

}  // namespace standin
