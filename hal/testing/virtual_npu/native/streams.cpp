// Streams and events. Work is done when the call that gives it returns, so a stream is never behind, and an event is the
// time at which it was recorded.

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <thread>

#include "runtime.h"

namespace {

using Clock = std::chrono::steady_clock;

struct Stream {
  int32_t id;
  int device;
};

struct Event {
  bool timed;
  std::atomic<bool> recorded = false;
  Clock::time_point time = {};
};

std::atomic<int32_t> next_stream = 1;

aclError make_stream(aclrtStream *stream) {
  *stream = new Stream{next_stream++, virtual_npu::current_device()};
  return ACL_SUCCESS;
}

aclError drop_stream(aclrtStream stream) {
  delete static_cast<Stream *>(stream);
  return ACL_SUCCESS;
}

aclError make_event(aclrtEvent *event, uint32_t flags) {
  *event = new Event{(flags & ACL_EVENT_TIME_LINE) != 0};
  return ACL_SUCCESS;
}

}  // namespace

extern "C" {

aclError aclrtCreateStream(aclrtStream *stream) { return make_stream(stream); }
aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t, uint32_t) { return make_stream(stream); }
aclError aclrtDestroyStream(aclrtStream stream) { return drop_stream(stream); }
aclError aclrtDestroyStreamForce(aclrtStream stream) { return drop_stream(stream); }
aclError aclrtSynchronizeStream(aclrtStream) { return ACL_SUCCESS; }
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream, int32_t) { return ACL_SUCCESS; }
aclError aclrtSynchronizeDevice() { return ACL_SUCCESS; }
aclError aclrtSynchronizeDeviceWithTimeout(int32_t) { return ACL_SUCCESS; }
aclError aclrtStreamWaitEvent(aclrtStream, aclrtEvent) { return ACL_SUCCESS; }
aclError aclrtSetStreamFailureMode(aclrtStream, uint64_t) { return ACL_SUCCESS; }
aclError aclrtSetStreamOverflowSwitch(aclrtStream, uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetOpWaitTimeout(uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }

aclError aclrtStreamQuery(aclrtStream, aclrtStreamStatus *status) {
  *status = ACL_STREAM_STATUS_COMPLETE;
  return ACL_SUCCESS;
}

aclError aclrtStreamGetId(aclrtStream stream, int32_t *id) {
  *id = stream != nullptr ? static_cast<Stream *>(stream)->id : 0;
  return ACL_SUCCESS;
}

aclError aclrtGetStreamOverflowSwitch(aclrtStream, uint32_t *flag) {
  *flag = 0;
  return ACL_SUCCESS;
}

// Functions of the host in a stream: every stream has reached them.

aclError aclrtLaunchHostFunc(aclrtStream, aclrtHostFunc function, void *data) {
  function(data);
  return ACL_SUCCESS;
}

aclError aclrtLaunchCallback(aclrtCallback function, void *data, aclrtCallbackBlockType, aclrtStream) {
  function(data);
  return ACL_SUCCESS;
}

aclError aclrtSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }
aclError aclrtUnSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }

aclError aclrtProcessReport(int32_t timeout_ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(timeout_ms > 0 && timeout_ms < 100 ? timeout_ms : 100));
  return ACL_SUCCESS;
}

aclError aclrtCreateEvent(aclrtEvent *event) { return make_event(event, ACL_EVENT_TIME_LINE); }
aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flags) { return make_event(event, flags); }
aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flags) { return make_event(event, flags); }

aclError aclrtDestroyEvent(aclrtEvent event) {
  delete static_cast<Event *>(event);
  return ACL_SUCCESS;
}

aclError aclrtRecordEvent(aclrtEvent event, aclrtStream) {
  auto *const mark = static_cast<Event *>(event);
  mark->time = Clock::now();
  mark->recorded = true;
  return ACL_SUCCESS;
}

aclError aclrtResetEvent(aclrtEvent event, aclrtStream) {
  static_cast<Event *>(event)->recorded = false;
  return ACL_SUCCESS;
}

aclError aclrtSynchronizeEvent(aclrtEvent) { return ACL_SUCCESS; }

aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus *status) {
  *status = static_cast<Event *>(event)->recorded ? ACL_EVENT_RECORDED_STATUS_COMPLETE
                                                  : ACL_EVENT_RECORDED_STATUS_NOT_READY;
  return ACL_SUCCESS;
}

aclError aclrtQueryEventWaitStatus(aclrtEvent, aclrtEventWaitStatus *status) {
  *status = ACL_EVENT_WAIT_STATUS_COMPLETE;
  return ACL_SUCCESS;
}

aclError aclrtEventElapsedTime(float *milliseconds, aclrtEvent start, aclrtEvent end) {
  const auto *const from = static_cast<Event *>(start);
  const auto *const to = static_cast<Event *>(end);
  if (!from->timed || !to->timed || !from->recorded || !to->recorded) {
    return virtual_npu::fail(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID,
                             "time is measured between events that were made for it and recorded; of these two %d were "
                             "made for it and %d recorded",
                             from->timed + to->timed, from->recorded + to->recorded);
  }
  *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return ACL_SUCCESS;
}

aclError aclrtEventGetTimestamp(aclrtEvent event, uint64_t *microseconds) {
  const auto since_start = static_cast<Event *>(event)->time.time_since_epoch();
  *microseconds = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(since_start).count());
  return ACL_SUCCESS;
}

}  // extern "C"
