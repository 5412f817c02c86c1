// Devices, contexts, facts about them, and the last error.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "runtime.h"

namespace virtual_npu {

namespace {

thread_local int current = 0;
std::atomic<uint64_t> in_use = 0;  // by bit: devices that a thread of this process has made its own
thread_local std::string recent_error;

constexpr intptr_t kFirstContext = 0x1000;  // contexts are opaque; this one stands for device 0

// The ids of ASCEND_RT_VISIBLE_DEVICES that count: those before the first that is not a device, or is named twice.
std::vector<long> visible(const char *list, long devices) {
  std::vector<long> ids;
  while (*list != '\0') {
    char *end = nullptr;
    const long id = std::strtol(list, &end, 10);
    bool known = end != list && (*end == ',' || *end == '\0') && id >= 0 && id < devices;
    for (const long other : ids) known = known && other != id;
    if (!known) break;
    ids.push_back(id);
    list = *end == ',' ? end + 1 : end;
  }
  return ids;
}

}  // namespace

long setting(const char *variable, long otherwise) {
  const char *text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return otherwise;
  char *end = nullptr;
  const long value = std::strtol(text, &end, 10);
  return *end == '\0' ? value : otherwise;
}

int device_count() {
  const long devices = setting("HAL_VIRTUAL_NPU_DEVICES", 2);
  const char *list = std::getenv("ASCEND_RT_VISIBLE_DEVICES");
  return static_cast<int>(list == nullptr ? devices : static_cast<long>(visible(list, devices).size()));
}

int current_device() { return current; }

size_t device_memory() { return static_cast<size_t>(setting("HAL_VIRTUAL_NPU_MEMORY_MB", 65536)) << 20; }

int fail(int code, const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  recent_error = std::string("virtual NPU: ") + text;
  return code;
}

static aclError check_device(int32_t device) {
  if (device >= 0 && device < device_count()) return ACL_SUCCESS;
  return fail(ACL_ERROR_RT_INVALID_DEVICEID, "device %d was asked for, this process sees %d", device, device_count());
}

}  // namespace virtual_npu

using namespace virtual_npu;

extern "C" {

long virtual_npu_unsimulated(const char *function) {
  std::fprintf(stderr, "virtual NPU: %s was called, and is not simulated\n", function);
  return fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "%s is not simulated", function);
}

aclError aclInit(const char *) { return ACL_SUCCESS; }
aclError aclFinalize() { return ACL_SUCCESS; }
void aclAppLog(aclLogLevel, const char *, const char *, uint32_t, const char *, ...) {}

const char *aclGetRecentErrMsg() {  // and forgets it, as CANN does
  static thread_local std::string reported;
  reported = std::exchange(recent_error, {});
  return reported.c_str();
}

aclError aclrtGetLastError(aclrtLastErrLevel) { return ACL_SUCCESS; }
aclError aclrtPeekAtLastError(aclrtLastErrLevel) { return ACL_SUCCESS; }
aclError aclmdlInitDump() { return ACL_SUCCESS; }
aclError aclmdlSetDump(const char *) { return ACL_SUCCESS; }
aclError aclmdlFinalizeDump() { return ACL_SUCCESS; }

const char *aclrtGetSocName() {
  const char *name = std::getenv("HAL_VIRTUAL_NPU_SOC");
  return name != nullptr ? name : "Ascend950PR_9599";
}

aclError aclrtGetDeviceCount(uint32_t *count) {
  *count = static_cast<uint32_t>(device_count());
  return *count > 0 ? ACL_SUCCESS : fail(ACL_ERROR_RT_NO_DEVICE, "this process sees no device");
}

aclError aclrtSetDevice(int32_t device) {
  const aclError error = check_device(device);
  if (error != ACL_SUCCESS) return error;
  current = device;
  in_use |= uint64_t{1} << device;
  return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t device) { return check_device(device); }

aclError aclrtGetDevice(int32_t *device) {
  *device = current;
  return ACL_SUCCESS;
}

aclError aclrtGetCurrentContext(aclrtContext *context) {
  *context = reinterpret_cast<aclrtContext>(kFirstContext + current);
  return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
  return aclrtSetDevice(static_cast<int32_t>(reinterpret_cast<intptr_t>(context) - kFirstContext));
}

aclError aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active) {
  if (flags != nullptr) *flags = 0;
  const aclError error = check_device(device);
  if (active != nullptr) *active = error == ACL_SUCCESS && (in_use >> device & 1) != 0;
  return error;
}

aclError aclrtGetLogicDevIdByUserDevId(const int32_t user_device, int32_t *const device) {
  *device = user_device;
  return check_device(user_device);
}

aclError aclGetDeviceCapability(uint32_t device, aclDeviceInfo, int64_t *value) {
  *value = 24;  // cores, of whichever kind
  return check_device(static_cast<int32_t>(device));
}

aclError aclrtGetDeviceUtilizationRate(int32_t device, aclrtUtilizationInfo *utilization) {
  utilization->cubeUtilization = 0;
  utilization->vectorUtilization = 0;
  utilization->aicpuUtilization = 0;
  utilization->memoryUtilization = 0;
  return check_device(device);
}

aclError aclrtDeviceCanAccessPeer(int32_t *can_access, int32_t device, int32_t peer) {
  *can_access = device != peer;
  const aclError error = check_device(device);
  return error != ACL_SUCCESS ? error : check_device(peer);
}

aclError aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t) { return check_device(peer); }

// Options of arithmetic: it is the host's.
aclError aclrtSetSysParamOpt(aclSysParamOpt, int64_t) { return ACL_SUCCESS; }
aclError aclrtCtxSetSysParamOpt(aclSysParamOpt, int64_t) { return ACL_SUCCESS; }
aclError aclrtGetSysParamOpt(aclSysParamOpt, int64_t *value) {
  *value = 0;
  return ACL_SUCCESS;
}
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode) { return ACL_SUCCESS; }

}  // extern "C"
