// Device memory: a reserved range that the host cannot touch. It is readable and writable only while a kernel runs; copies go through a
// second mapping of the same pages.
#pragma once

#include "fault.h"
#include "standin_cuda.h"

#include <cstdint>
#include <map>

namespace standin {

struct Context;

struct Allocation {
  size_t bytes;
  const Context* context;
};

class Memory {
 public:
  Memory();
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  /// Filled with 0xCB, aligned to 256, and followed by memory that nobody may touch. 0 where the address range is used up.
  CUdeviceptr allocate(size_t bytes, const Context& context);
  bool free(CUdeviceptr address);
  void free_all(const Context& context);

  /// The start of the allocation that the address is in, and the allocation; nullptr where it is in none.
  const std::pair<const CUdeviceptr, Allocation>* find(CUdeviceptr address) const;

  /// Where the stand-in itself can reach the range, or nullptr where it is not all in one allocation.
  unsigned char* reach(CUdeviceptr address, size_t bytes) const;

  /// Whether an address is of this range, allocated or not.
  bool contains(const void* address) const;

  /// While it exists kernels can touch what is allocated, and fault where they touch what is not.
  class Open {
   public:
    explicit Open(const Memory& memory);
    ~Open();
    Open(const Open&) = delete;
    Open& operator=(const Open&) = delete;

   private:
    const Memory& memory_;
    const simt::FaultGuard guard_;
  };

  size_t count() const { return allocations_.size(); }
  size_t bytes() const;

  /// Of a device, in whichever context.
  size_t bytes(int device) const;

 private:
  void protect(int protection) const;
  void release(CUdeviceptr address, size_t bytes);

  int file_ = -1;
  unsigned char* device_view_ = nullptr;
  unsigned char* host_view_ = nullptr;
  uint64_t next_ = 0;
  std::map<CUdeviceptr, Allocation> allocations_;
};

}  // namespace standin
