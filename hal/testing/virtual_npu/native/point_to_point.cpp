// Messages between two ranks, through the box of the pair in pieces. A message that fits into the box is sent before
// its receiver comes; a longer one waits for it, as on a device.

#include <algorithm>
#include <cstring>
#include <vector>

#include "communicator.h"

namespace virtual_npu {

namespace {

// One message on its way, from this rank or to it.
class Message {
 public:
  Message(const Communicator &group, const HcclSendRecvItem &item)
      : item_(item),
        sends_(item.sendRecvType == HCCL_SEND),
        bytes_(item.count * item_bytes(item.dataType)),
        box_(sends_ ? group.box(group.rank(), item.remoteRank) : group.box(item.remoteRank, group.rank())) {}

  bool done() const { return done_; }
  uint32_t peer() const { return item_.remoteRank; }
  bool same_way(const Message &other) const { return sends_ == other.sends_ && peer() == other.peer(); }

  // Moves a piece if the box allows it. An error if the other end has another message in mind.
  HcclResult move(const char *function, bool *moved) {
    *moved = false;
    if ((box_.full.load(std::memory_order_acquire) != 0) == sends_) return HCCL_SUCCESS;
    if (!sends_ && (box_.message_bytes != bytes_ || box_.type != item_.dataType)) {
      return static_cast<HcclResult>(
          fail(HCCL_E_PARA, "%s: %llu items of %s are expected from rank %u, which sends %llu of %s", function,
               static_cast<unsigned long long>(item_.count), type_name(item_.dataType), peer(),
               static_cast<unsigned long long>(box_.message_bytes / item_bytes(box_.type)), type_name(box_.type)));
    }
    char *const data = static_cast<char *>(item_.buf) + place_;
    const size_t length = std::min(kBoxBytes, bytes_ - place_);
    if (sends_) {
      box_.type = item_.dataType;
      box_.message_bytes = bytes_;
      std::memcpy(box_.data, data, length);
    } else {
      std::memcpy(data, box_.data, length);
    }
    place_ += length;
    done_ = place_ == bytes_;
    *moved = true;
    box_.full.store(sends_ ? 1 : 0, std::memory_order_release);
    return HCCL_SUCCESS;
  }

 private:
  HcclSendRecvItem item_;
  bool sends_;
  size_t bytes_;
  Box &box_;
  size_t place_ = 0;
  bool done_ = false;
};

// Moves all messages until all have arrived. Messages between the same two ranks in the same direction keep their order.
HcclResult exchange(const char *function, Communicator &group, const HcclSendRecvItem *items, uint32_t num_items) {
  std::vector<Message> messages;
  for (uint32_t i = 0; i < num_items; ++i) {
    if (items[i].remoteRank >= group.num_ranks()) {
      return static_cast<HcclResult>(fail(HCCL_E_PARA, "%s: rank %u of a group of %u", function, items[i].remoteRank,
                                          group.num_ranks()));
    }
    messages.emplace_back(group, items[i]);
  }
  const auto waits_for_an_earlier = [&](const Message &message) {
    return std::any_of(static_cast<const Message *>(messages.data()), &message,
                       [&](const Message &earlier) { return !earlier.done() && earlier.same_way(message); });
  };
  HcclResult error = HCCL_SUCCESS;
  const auto all_done = [&] {
    return error != HCCL_SUCCESS || std::all_of(messages.begin(), messages.end(), [](auto &m) { return m.done(); });
  };
  const auto move_what_can = [&] {
    bool any = true;
    while (any && !all_done()) {
      any = false;
      for (Message &message : messages) {
        bool moved = false;
        if (!message.done() && !waits_for_an_earlier(message)) error = message.move(function, &moved);
        any = any || moved;
        if (error != HCCL_SUCCESS) break;
      }
    }
    return all_done();
  };
  const HcclResult waited = group.wait(function, move_what_can, [&](uint32_t rank) {
    return std::any_of(messages.begin(), messages.end(), [&](auto &m) { return !m.done() && m.peer() == rank; });
  });
  return error != HCCL_SUCCESS ? error : waited;
}

}  // namespace

}  // namespace virtual_npu

using namespace virtual_npu;

extern "C" {

HcclResult HcclSend(void *data, uint64_t count, HcclDataType type, uint32_t to, HcclComm communicator, aclrtStream) {
  const HcclSendRecvItem item{HCCL_SEND, data, count, type, to};
  return exchange("HcclSend", *static_cast<Communicator *>(communicator), &item, 1);
}

HcclResult HcclRecv(void *data, uint64_t count, HcclDataType type, uint32_t from, HcclComm communicator, aclrtStream) {
  const HcclSendRecvItem item{HCCL_RECV, data, count, type, from};
  return exchange("HcclRecv", *static_cast<Communicator *>(communicator), &item, 1);
}

HcclResult HcclBatchSendRecv(HcclSendRecvItem *items, uint32_t num_items, HcclComm communicator, aclrtStream) {
  return exchange("HcclBatchSendRecv", *static_cast<Communicator *>(communicator), items, num_items);
}

}  // extern "C"
