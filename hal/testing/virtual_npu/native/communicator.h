// A group of ranks that share a segment of memory.
//
// The segment holds, for each rank, what it is doing (`Place`), a slot through which collectives pass data in pieces,
// and for each pair of ranks a box through which messages pass in pieces.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "runtime.h"
#include <third_party/hccl/inc/hccl/hccl.h>

namespace virtual_npu {

constexpr size_t kSlotBytes = 4 << 20;
constexpr size_t kBoxBytes = 1 << 20;
constexpr uint32_t kMaxRanks = 64;

// One collective as a rank calls it. Ranks that meet must have called the same one.
struct Call {
  HcclCMDType kind;
  HcclDataType type;
  uint64_t count;
  uint32_t detail;  // the reduction or the root
  bool operator==(const Call &) const = default;
};

// What a rank shows the others.
struct Place {
  std::atomic<uint32_t> arrivals;  // meetings it has come to
  std::atomic<int32_t> pid;
  uint32_t num_ranks;
  Call call;
};

// A piece of a message from one rank to another.
struct Box {
  std::atomic<uint32_t> full;
  HcclDataType type;
  uint64_t message_bytes;
  alignas(64) char data[kBoxBytes];
};

class Communicator {
 public:
  // Joins the segment called `name` and waits for the others. Null if they don't come; `error` says which.
  static Communicator *join(const char *name, uint32_t num_ranks, uint32_t rank, int32_t exec_seconds,
                            HcclResult *error);
  ~Communicator();

  uint32_t rank() const { return rank_; }
  uint32_t num_ranks() const { return num_ranks_; }
  const char *name() const { return name_.c_str(); }
  char *slot(uint32_t rank) const { return slots_ + rank * kSlotBytes; }
  Box &box(uint32_t from, uint32_t to) const { return boxes_[from * num_ranks_ + to]; }

  // Opens a collective: says what this rank calls.
  void open(const Call &call) { places_[rank_].call = call; }

  // Waits for all ranks. What each wrote to its slot before, all can read after.
  HcclResult meet(const char *function);

  // The same, and refuses if another rank called something else.
  HcclResult meet_same(const char *function);

  // Waits until `done` says so. `missing` names whom it waits for, and the wait ends early if such a rank has died.
  HcclResult wait(const char *function, const std::function<bool()> &done,
                  const std::function<bool(uint32_t)> &missing);

 private:
  Communicator() = default;
  HcclResult wait_for(const char *function, std::chrono::seconds limit, const char *limit_variable,
                      const std::function<bool()> &done, const std::function<bool(uint32_t)> &missing);

  std::string name_;
  uint32_t rank_ = 0;
  uint32_t num_ranks_ = 0;
  std::chrono::seconds exec_limit_{};
  void *segment_ = nullptr;
  size_t segment_bytes_ = 0;
  Place *places_ = nullptr;
  char *slots_ = nullptr;
  Box *boxes_ = nullptr;
};

size_t item_bytes(HcclDataType type);
const char *type_name(HcclDataType type);

}  // namespace virtual_npu
