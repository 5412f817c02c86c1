// What the parts of the simulated Ascend runtime share.
//
// The runtime stands in for CANN's libraries. Device memory is host memory, every stream is in order and done with each
// piece of work when the call that gave it returns. Functions are declared by the headers that the torch-npu wheel
// carries, so the compiler compares their signatures with what torch_npu was built against.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdint>

#include <acl/acl.h>

namespace virtual_npu {

// Devices that this process sees: HAL_VIRTUAL_NPU_DEVICES, narrowed down by ASCEND_RT_VISIBLE_DEVICES.
int device_count();

// The calling thread's current device.
int current_device();

// Bytes of memory of each device: HAL_VIRTUAL_NPU_MEMORY_MB.
size_t device_memory();

// A setting that is a whole number, or `otherwise` where the variable is unset or is none.
long setting(const char *variable, long otherwise);

// Keeps what went wrong for aclGetRecentErrMsg, whose text torch_npu puts into its exception, and returns `code`.
int fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace virtual_npu

// For generated functions: what is called and not simulated says its name, and fails.
extern "C" long virtual_npu_unsimulated(const char *function);
