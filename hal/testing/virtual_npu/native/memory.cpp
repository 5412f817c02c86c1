// Device memory, which is host memory: counted by device, bounded, and copied by the processor.

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "runtime.h"

namespace {

struct Block {
  size_t bytes;
  int device;
};

constexpr size_t kAlignment = 512;  // CANN's
constexpr int kMaxDevices = 64;

std::mutex mutex;
std::map<uintptr_t, Block> blocks;
size_t used[kMaxDevices] = {};

// The block of device memory that an address lies in, or nullptr.
const Block *find(const void *pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  auto after = blocks.upper_bound(address);
  if (after == blocks.begin()) return nullptr;
  const auto &[start, block] = *--after;
  return address < start + block.bytes ? &block : nullptr;
}

aclError allocate(void **pointer, size_t bytes) {
  const int device = virtual_npu::current_device();
  const std::lock_guard lock(mutex);
  const size_t total = virtual_npu::device_memory();
  if (bytes > total - used[device] || posix_memalign(pointer, kAlignment, bytes != 0 ? bytes : kAlignment) != 0) {
    return virtual_npu::fail(ACL_ERROR_RT_MEMORY_ALLOCATION,
                             "%zu bytes were asked for on device %d, %zu of %zu are in use by this process "
                             "(HAL_VIRTUAL_NPU_MEMORY_MB sets the size)",
                             bytes, device, used[device], total);
  }
  blocks[reinterpret_cast<uintptr_t>(*pointer)] = {bytes, device};
  used[device] += bytes;
  return ACL_SUCCESS;
}

aclError copy(void *to, size_t room, const void *from, size_t bytes) {
  if (bytes > room) {
    return virtual_npu::fail(ACL_ERROR_RT_PARAM_INVALID, "%zu bytes are copied to %zu bytes of memory", bytes, room);
  }
  std::memmove(to, from, bytes);
  return ACL_SUCCESS;
}

}  // namespace

extern "C" {

aclError aclrtMalloc(void **pointer, size_t bytes, aclrtMemMallocPolicy) { return allocate(pointer, bytes); }
aclError aclrtMallocAlign32(void **pointer, size_t bytes, aclrtMemMallocPolicy) { return allocate(pointer, bytes); }

aclError aclrtFree(void *pointer) {
  const std::lock_guard lock(mutex);
  const auto found = blocks.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == blocks.end()) {
    return virtual_npu::fail(ACL_ERROR_RT_PARAM_INVALID, "aclrtFree of %p, which aclrtMalloc did not give", pointer);
  }
  used[found->second.device] -= found->second.bytes;
  blocks.erase(found);
  std::free(pointer);
  return ACL_SUCCESS;
}

aclError aclrtMallocHost(void **pointer, size_t bytes) {
  if (posix_memalign(pointer, kAlignment, bytes != 0 ? bytes : kAlignment) == 0) return ACL_SUCCESS;
  return virtual_npu::fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "%zu bytes of host memory were asked for", bytes);
}

aclError aclrtMallocHostWithCfg(void **pointer, uint64_t bytes, aclrtMallocConfig *) {
  return aclrtMallocHost(pointer, bytes);
}

aclError aclrtFreeHost(void *pointer) {
  std::free(pointer);
  return ACL_SUCCESS;
}

aclError aclrtGetMemInfo(aclrtMemAttr, size_t *free, size_t *total) {
  const std::lock_guard lock(mutex);
  *total = virtual_npu::device_memory();
  *free = *total - used[virtual_npu::current_device()];
  return ACL_SUCCESS;
}

aclError aclrtPointerGetAttributes(const void *pointer, aclrtPtrAttributes *attributes) {
  const std::lock_guard lock(mutex);
  const Block *block = find(pointer);
  std::memset(attributes, 0, sizeof *attributes);
  attributes->location.type = block != nullptr ? ACL_MEM_LOCATION_TYPE_DEVICE : ACL_MEM_LOCATION_TYPE_UNREGISTERED;
  attributes->location.id = block != nullptr ? static_cast<uint32_t>(block->device) : 0;
  return ACL_SUCCESS;
}

aclError aclrtMemcpy(void *to, size_t room, const void *from, size_t bytes, aclrtMemcpyKind) {
  return copy(to, room, from, bytes);
}

aclError aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t bytes, aclrtMemcpyKind, aclrtStream) {
  return copy(to, room, from, bytes);
}

aclError aclrtMemset(void *to, size_t room, int32_t value, size_t bytes) {
  if (bytes > room) {
    return virtual_npu::fail(ACL_ERROR_RT_PARAM_INVALID, "%zu bytes are set in %zu bytes of memory", bytes, room);
  }
  std::memset(to, value, bytes);
  return ACL_SUCCESS;
}

aclError aclrtMemsetAsync(void *to, size_t room, int32_t value, size_t bytes, aclrtStream) {
  return aclrtMemset(to, room, value, bytes);
}

}  // extern "C"
