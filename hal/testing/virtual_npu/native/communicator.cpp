// Groups of ranks: their segment of shared memory, how they meet, and how long they wait.

#include "communicator.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <new>
#include <thread>

namespace virtual_npu {

namespace {

// Seconds; CANN's own variables and defaults.
constexpr const char *kConnectTimeout = "HCCL_CONNECT_TIMEOUT";
constexpr const char *kExecTimeout = "HCCL_EXEC_TIMEOUT";
constexpr long kConnectSeconds = 120;
constexpr long kExecSeconds = 1836;

constexpr int kSpins = 200;             // first a waiting rank gives its core away ...
constexpr int kMaxNapMicroseconds = 500;  // ... then it sleeps, longer and longer
constexpr auto kLookForTheDead = std::chrono::milliseconds(200);

bool alive(int32_t pid) {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
  std::FILE *const file = std::fopen(path, "r");
  if (file == nullptr) return kill(pid, 0) == 0 || errno == EPERM;
  char state = '?';
  const int found = std::fscanf(file, "%*d (%*[^)]) %c", &state);
  std::fclose(file);
  return found != 1 || (state != 'Z' && state != 'X');  // a zombie will not come any more
}

}  // namespace

Communicator *Communicator::join(const char *name, uint32_t num_ranks, uint32_t rank, int32_t exec_seconds,
                                 HcclResult *error) {
  auto *const self = new Communicator;
  self->name_ = name;
  self->rank_ = rank;
  self->num_ranks_ = num_ranks;
  self->exec_limit_ = std::chrono::seconds(exec_seconds > 0 ? exec_seconds : setting(kExecTimeout, kExecSeconds));
  const size_t head = (num_ranks * sizeof(Place) + 4095) / 4096 * 4096;
  self->segment_bytes_ = head + num_ranks * kSlotBytes + num_ranks * num_ranks * sizeof(Box);

  const int file = shm_open(name, O_CREAT | O_RDWR, 0600);
  void *segment = MAP_FAILED;
  if (file >= 0 && ftruncate(file, static_cast<off_t>(self->segment_bytes_)) == 0) {
    segment = mmap(nullptr, self->segment_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  }
  if (file >= 0) close(file);
  if (segment == MAP_FAILED) {
    *error = static_cast<HcclResult>(fail(HCCL_E_MEMORY, "no shared memory for communicator %s: %s", name,
                                          std::strerror(errno)));
    delete self;
    return nullptr;
  }
  self->segment_ = segment;
  self->places_ = static_cast<Place *>(segment);
  self->slots_ = static_cast<char *>(segment) + head;
  self->boxes_ = reinterpret_cast<Box *>(self->slots_ + num_ranks * kSlotBytes);

  Place &own = self->places_[rank];
  own.num_ranks = num_ranks;
  own.pid = getpid();
  const uint32_t turn = ++own.arrivals;
  Place *const places = self->places_;
  long seconds = setting(kConnectTimeout, kConnectSeconds);
  if (exec_seconds > 0 && exec_seconds < seconds) seconds = exec_seconds;  // the group's own limit, where that is shorter
  *error = self->wait_for(
      "HcclCommInitRootInfo", std::chrono::seconds(seconds), kConnectTimeout,
      [=] {
        for (uint32_t other = 0; other < num_ranks; ++other) {
          if (places[other].arrivals < turn) return false;
        }
        return true;
      },
      [=](uint32_t other) { return places[other].arrivals < turn; });
  if (rank == 0 || *error != HCCL_SUCCESS) shm_unlink(name);
  if (*error == HCCL_SUCCESS) return self;
  delete self;
  return nullptr;
}

Communicator::~Communicator() {
  if (segment_ != nullptr) munmap(segment_, segment_bytes_);
}

HcclResult Communicator::meet(const char *function) {
  const uint32_t turn = ++places_[rank_].arrivals;
  const auto missing = [this, turn](uint32_t other) {
    return static_cast<int32_t>(places_[other].arrivals.load(std::memory_order_acquire) - turn) < 0;
  };
  const auto done = [this, missing] {
    for (uint32_t other = 0; other < num_ranks_; ++other) {
      if (missing(other)) return false;
    }
    return true;
  };
  return wait(function, done, missing);
}

HcclResult Communicator::meet_same(const char *function) {
  const HcclResult error = meet(function);
  if (error != HCCL_SUCCESS) return error;
  const Call &own = places_[rank_].call;
  for (uint32_t other = 0; other < num_ranks_; ++other) {
    const Call &theirs = places_[other].call;
    if (theirs == own) continue;
    return static_cast<HcclResult>(
        fail(HCCL_E_PARA,
             "%s: rank %u called command %d with %llu items of %s (reduction or root %u), rank %u called command %d with "
             "%llu items of %s (reduction or root %u); all ranks of a group make the same calls in the same order",
             function, rank_, own.kind, static_cast<unsigned long long>(own.count), type_name(own.type), own.detail,
             other, theirs.kind, static_cast<unsigned long long>(theirs.count), type_name(theirs.type),
             theirs.detail));
  }
  return HCCL_SUCCESS;
}

HcclResult Communicator::wait(const char *function, const std::function<bool()> &done,
                              const std::function<bool(uint32_t)> &missing) {
  return wait_for(function, exec_limit_, kExecTimeout, done, missing);
}

HcclResult Communicator::wait_for(const char *function, std::chrono::seconds limit, const char *limit_variable,
                                  const std::function<bool()> &done, const std::function<bool(uint32_t)> &missing) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (done()) return HCCL_SUCCESS;
    sched_yield();
  }
  const auto start = std::chrono::steady_clock::now();
  auto looked = start;
  for (int nap = 20; !done(); nap = nap < kMaxNapMicroseconds ? nap * 2 : kMaxNapMicroseconds) {
    std::this_thread::sleep_for(std::chrono::microseconds(nap));
    const auto now = std::chrono::steady_clock::now();
    if (now - looked < kLookForTheDead) continue;
    looked = now;
    std::string whom;
    for (uint32_t other = 0; other < num_ranks_; ++other) {
      if (!missing(other)) continue;
      whom += (whom.empty() ? "" : ", ") + std::to_string(other);
      const int32_t pid = places_[other].pid;
      if (pid != 0 && !alive(pid) && !done()) {
        return static_cast<HcclResult>(fail(HCCL_E_REMOTE,
                                            "%s of rank %u in group %s: rank %u (process %d) has ended without coming",
                                            function, rank_, name(), other, pid));
      }
    }
    if (now - start > limit) {
      return static_cast<HcclResult>(fail(HCCL_E_TIMEOUT, "%s of rank %u in group %s: waited %lld s for rank %s (the group's time limit, or %s)",
                                          function, rank_, name(), static_cast<long long>(limit.count()), whom.c_str(),
                                          limit_variable));
    }
  }
  return HCCL_SUCCESS;
}

size_t item_bytes(HcclDataType type) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8: case HCCL_DATA_TYPE_UINT8: case HCCL_DATA_TYPE_HIF8: case HCCL_DATA_TYPE_FP8E4M3:
    case HCCL_DATA_TYPE_FP8E5M2: case HCCL_DATA_TYPE_FP8E8M0:
      return 1;
    case HCCL_DATA_TYPE_INT16: case HCCL_DATA_TYPE_UINT16: case HCCL_DATA_TYPE_FP16: case HCCL_DATA_TYPE_BFP16:
      return 2;
    case HCCL_DATA_TYPE_INT32: case HCCL_DATA_TYPE_UINT32: case HCCL_DATA_TYPE_FP32:
      return 4;
    case HCCL_DATA_TYPE_INT64: case HCCL_DATA_TYPE_UINT64: case HCCL_DATA_TYPE_FP64:
      return 8;
    case HCCL_DATA_TYPE_INT128:
      return 16;
    default:
      return 0;
  }
}

const char *type_name(HcclDataType type) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8: return "int8";
    case HCCL_DATA_TYPE_INT16: return "int16";
    case HCCL_DATA_TYPE_INT32: return "int32";
    case HCCL_DATA_TYPE_INT64: return "int64";
    case HCCL_DATA_TYPE_UINT8: return "uint8";
    case HCCL_DATA_TYPE_FP16: return "float16";
    case HCCL_DATA_TYPE_BFP16: return "bfloat16";
    case HCCL_DATA_TYPE_FP32: return "float32";
    case HCCL_DATA_TYPE_FP64: return "float64";
    default: return "another type";
  }
}

}  // namespace virtual_npu

using virtual_npu::Communicator;

extern "C" {

HcclResult HcclGetRootInfo(HcclRootInfo *root) {
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  std::memset(root, 0, sizeof *root);
  std::snprintf(root->internal, COMM_NAME_MAX_LENGTH, "/virtual-npu-%d-%lld", getpid(), static_cast<long long>(now));
  return HCCL_SUCCESS;
}

HcclResult HcclCommInitRootInfoConfig(uint32_t num_ranks, const HcclRootInfo *root, uint32_t rank,
                                      const HcclCommConfig *config, HcclComm *communicator) {
  if (num_ranks == 0 || num_ranks > virtual_npu::kMaxRanks || rank >= num_ranks) {
    return static_cast<HcclResult>(virtual_npu::fail(HCCL_E_PARA, "rank %u of %u; up to %u ranks are simulated", rank,
                                                     num_ranks, virtual_npu::kMaxRanks));
  }
  HcclResult error = HCCL_SUCCESS;
  *communicator = Communicator::join(root->internal, num_ranks, rank, config != nullptr ? config->hcclExecTimeOut : 0,
                                     &error);
  return error;
}

HcclResult HcclCommInitRootInfo(uint32_t num_ranks, const HcclRootInfo *root, uint32_t rank, HcclComm *communicator) {
  return HcclCommInitRootInfoConfig(num_ranks, root, rank, nullptr, communicator);
}

HcclResult HcclCommDestroy(HcclComm communicator) {
  delete static_cast<Communicator *>(communicator);
  return HCCL_SUCCESS;
}

uint32_t HcclGetCommConfigCapability() { return HCCL_COMM_CONFIG_RESERVED; }

HcclResult HcclGetCommName(HcclComm communicator, char *name) {
  std::snprintf(name, COMM_NAME_MAX_LENGTH, "%s", static_cast<Communicator *>(communicator)->name());
  return HCCL_SUCCESS;
}

HcclResult HcclGetRankId(HcclComm communicator, uint32_t *rank) {
  *rank = static_cast<Communicator *>(communicator)->rank();
  return HCCL_SUCCESS;
}

HcclResult HcclGetRankSize(HcclComm communicator, uint32_t *num_ranks) {
  *num_ranks = static_cast<Communicator *>(communicator)->num_ranks();
  return HCCL_SUCCESS;
}

HcclResult HcclGetCommAsyncError(HcclComm, HcclResult *error) {
  *error = HCCL_SUCCESS;  // errors are returned by the calls themselves
  return HCCL_SUCCESS;
}

HcclResult HcclSetConfig(HcclConfig, HcclConfigValue) { return HCCL_SUCCESS; }  // results are the same each time anyway

const char *HcclGetErrorString(HcclResult code) {
  switch (code) {
    case HCCL_SUCCESS: return "no error";
    case HCCL_E_PARA: return "wrong argument";
    case HCCL_E_MEMORY: return "no memory";
    case HCCL_E_TIMEOUT: return "time-out";
    case HCCL_E_REMOTE: return "another rank has ended";
    case HCCL_E_NOT_SUPPORT: return "not supported";
    default: return "error of HCCL";
  }
}

}  // extern "C"
