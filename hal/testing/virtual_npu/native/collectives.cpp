// Collectives. Each passes data through the ranks' slots in pieces: write, meet, read, meet.

#include <algorithm>
#include <cstring>
#include <vector>

#include "communicator.h"
#include "numbers.h"

namespace virtual_npu {

namespace {

// Calls `piece(first, length)` for consecutive pieces of `count` items, `most` at a time; once for no items, so that
// ranks meet all the same.
template <typename Piece>
HcclResult in_pieces(uint64_t count, uint64_t most, Piece piece) {
  uint64_t first = 0;
  do {
    const HcclResult error = piece(first, std::min(most, count - first));
    if (error != HCCL_SUCCESS) return error;
    first += most;
  } while (first < count);
  return HCCL_SUCCESS;
}

// One piece: all ranks write, meet, and read.
template <typename Write, typename Read>
HcclResult exchange(Communicator &group, const char *function, Write write, Read read) {
  write();
  HcclResult error = group.meet_same(function);
  if (error != HCCL_SUCCESS) return error;
  read();
  return group.meet(function);
}

const char *at(const void *data, uint64_t item, size_t bytes) { return static_cast<const char *>(data) + item * bytes; }
char *at(void *data, uint64_t item, size_t bytes) { return static_cast<char *>(data) + item * bytes; }

// What HCCL's headers name for reductions.
HcclResult check_reduction(const char *function, HcclDataType type, HcclReduceOp op) {
  if (can_reduce(type) && op <= HCCL_REDUCE_MIN) return HCCL_SUCCESS;
  return static_cast<HcclResult>(
      fail(HCCL_E_NOT_SUPPORT,
           "%s: type %s with reduction %d; int8, int16, int32, int64, float16, bfloat16 and float32 can be summed, "
           "multiplied, and their maximum and minimum taken",
           function, type_name(type), op));
}

// The reduction of all ranks' slots, from item `first` on, into `output`.
void reduce_slots(const Communicator &group, uint64_t first, void *output, uint64_t count, HcclDataType type,
                  HcclReduceOp op) {
  std::vector<const void *> inputs;
  for (uint32_t rank = 0; rank < group.num_ranks(); ++rank) {
    inputs.push_back(at(group.slot(rank), first, item_bytes(type)));
  }
  reduce(inputs, output, count, type, op);
}

HcclResult all_reduce(Communicator &group, const char *function, const void *input, void *output, uint64_t count,
                      HcclDataType type, HcclReduceOp op, bool keep) {
  const HcclResult error = check_reduction(function, type, op);
  if (error != HCCL_SUCCESS) return error;
  const size_t bytes = item_bytes(type);
  return in_pieces(count, kSlotBytes / bytes, [&](uint64_t first, uint64_t length) {
    return exchange(
        group, function, [&] { std::memcpy(group.slot(group.rank()), at(input, first, bytes), length * bytes); },
        [&] {
          if (keep) reduce_slots(group, 0, at(output, first, bytes), length, type, op);
        });
  });
}

// Sizes and places, by rank, of what a rank sends to or receives from the others, in items.
struct Parts {
  const uint64_t *counts;
  const uint64_t *places;
};

HcclResult all_to_all(Communicator &group, const char *function, const void *input, Parts sent, void *output,
                      Parts received, HcclDataType type) {
  const uint32_t ranks = group.num_ranks();
  const size_t bytes = item_bytes(type);
  // First the counts, so that all know how many pieces there are, and what is sent is what is awaited.
  uint64_t longest = 0;
  HcclResult mismatch = HCCL_SUCCESS;
  group.open({HCCL_CMD_ALLTOALLV, type, 0, 0});
  const auto counts_of = [&](uint32_t rank) { return reinterpret_cast<uint64_t *>(group.slot(rank)); };
  HcclResult error = exchange(
      group, function, [&] { std::copy_n(sent.counts, ranks, counts_of(group.rank())); },
      [&] {
        for (uint32_t from = 0; from < ranks; ++from) {
          longest = std::max(longest, *std::max_element(counts_of(from), counts_of(from) + ranks));
          if (counts_of(from)[group.rank()] == received.counts[from]) continue;
          mismatch = static_cast<HcclResult>(
              fail(HCCL_E_PARA, "%s: rank %u sends %llu items to rank %u, which expects %llu", function, from,
                   static_cast<unsigned long long>(counts_of(from)[group.rank()]), group.rank(),
                   static_cast<unsigned long long>(received.counts[from])));
        }
      });
  if (error == HCCL_SUCCESS) error = mismatch;
  if (error != HCCL_SUCCESS) return error;

  const uint64_t share = kSlotBytes / ranks / bytes;  // items of a slot for each receiver
  const auto piece_of = [&](uint64_t count, uint64_t first) { return count > first ? std::min(share, count - first) : 0; };
  return in_pieces(longest, share, [&](uint64_t first, uint64_t) {
    return exchange(
        group, function,
        [&] {
          for (uint32_t to = 0; to < ranks; ++to) {
            std::memcpy(at(group.slot(group.rank()), to * share, bytes), at(input, sent.places[to] + first, bytes),
                        piece_of(sent.counts[to], first) * bytes);
          }
        },
        [&] {
          for (uint32_t from = 0; from < ranks; ++from) {
            std::memcpy(at(output, received.places[from] + first, bytes),
                        at(group.slot(from), group.rank() * share, bytes),
                        piece_of(received.counts[from], first) * bytes);
          }
        });
  });
}

}  // namespace

}  // namespace virtual_npu

using namespace virtual_npu;

extern "C" {

HcclResult HcclAllReduce(void *input, void *output, uint64_t count, HcclDataType type, HcclReduceOp op,
                         HcclComm communicator, aclrtStream) {
  auto &group = *static_cast<Communicator *>(communicator);
  group.open({HCCL_CMD_ALLREDUCE, type, count, op});
  return all_reduce(group, "HcclAllReduce", input, output, count, type, op, true);
}

HcclResult HcclReduce(void *input, void *output, uint64_t count, HcclDataType type, HcclReduceOp op, uint32_t root,
                      HcclComm communicator, aclrtStream) {
  auto &group = *static_cast<Communicator *>(communicator);
  group.open({HCCL_CMD_REDUCE, type, count, root});
  return all_reduce(group, "HcclReduce", input, output, count, type, op, group.rank() == root);
}

HcclResult HcclBroadcast(void *data, uint64_t count, HcclDataType type, uint32_t root, HcclComm communicator,
                         aclrtStream) {
  auto &group = *static_cast<Communicator *>(communicator);
  const size_t bytes = item_bytes(type);
  const bool sends = group.rank() == root;
  group.open({HCCL_CMD_BROADCAST, type, count, root});
  return in_pieces(count, kSlotBytes / bytes, [&](uint64_t first, uint64_t length) {
    return exchange(
        group, "HcclBroadcast",
        [&] {
          if (sends) std::memcpy(group.slot(root), at(data, first, bytes), length * bytes);
        },
        [&] {
          if (!sends) std::memcpy(at(data, first, bytes), group.slot(root), length * bytes);
        });
  });
}

HcclResult HcclAllGather(void *input, void *output, uint64_t count, HcclDataType type, HcclComm communicator,
                         aclrtStream) {
  auto &group = *static_cast<Communicator *>(communicator);
  const size_t bytes = item_bytes(type);
  group.open({HCCL_CMD_ALLGATHER, type, count, 0});
  return in_pieces(count, kSlotBytes / bytes, [&](uint64_t first, uint64_t length) {
    return exchange(
        group, "HcclAllGather",
        [&] { std::memcpy(group.slot(group.rank()), at(input, first, bytes), length * bytes); },
        [&] {
          for (uint32_t rank = 0; rank < group.num_ranks(); ++rank) {
            std::memcpy(at(output, rank * count + first, bytes), group.slot(rank), length * bytes);
          }
        });
  });
}

HcclResult HcclReduceScatter(void *input, void *output, uint64_t count, HcclDataType type, HcclReduceOp op,
                             HcclComm communicator, aclrtStream) {
  auto &group = *static_cast<Communicator *>(communicator);
  const HcclResult error = check_reduction("HcclReduceScatter", type, op);
  if (error != HCCL_SUCCESS) return error;
  const size_t bytes = item_bytes(type);
  const uint64_t share = kSlotBytes / group.num_ranks() / bytes;
  group.open({HCCL_CMD_REDUCE_SCATTER, type, count, op});
  return in_pieces(count, share, [&](uint64_t first, uint64_t length) {
    return exchange(
        group, "HcclReduceScatter",
        [&] {
          for (uint32_t to = 0; to < group.num_ranks(); ++to) {
            std::memcpy(at(group.slot(group.rank()), to * share, bytes), at(input, to * count + first, bytes),
                        length * bytes);
          }
        },
        [&] { reduce_slots(group, group.rank() * share, at(output, first, bytes), length, type, op); });
  });
}

HcclResult HcclScatter(void *input, void *output, uint64_t count, HcclDataType type, uint32_t root,
                       HcclComm communicator, aclrtStream) {
  auto &group = *static_cast<Communicator *>(communicator);
  const size_t bytes = item_bytes(type);
  const uint64_t share = kSlotBytes / group.num_ranks() / bytes;
  group.open({HCCL_CMD_SCATTER, type, count, root});
  return in_pieces(count, share, [&](uint64_t first, uint64_t length) {
    return exchange(
        group, "HcclScatter",
        [&] {
          for (uint32_t to = 0; group.rank() == root && to < group.num_ranks(); ++to) {
            std::memcpy(at(group.slot(root), to * share, bytes), at(input, to * count + first, bytes), length * bytes);
          }
        },
        [&] {
          std::memcpy(at(output, first, bytes), at(group.slot(root), group.rank() * share, bytes), length * bytes);
        });
  });
}

HcclResult HcclAlltoAllV(const void *input, const void *send_counts, const void *send_places, HcclDataType type,
                         const void *output, const void *receive_counts, const void *receive_places, HcclDataType,
                         HcclComm communicator, aclrtStream) {
  return all_to_all(*static_cast<Communicator *>(communicator), "HcclAlltoAllV", input,
                    {static_cast<const uint64_t *>(send_counts), static_cast<const uint64_t *>(send_places)},
                    const_cast<void *>(output),
                    {static_cast<const uint64_t *>(receive_counts), static_cast<const uint64_t *>(receive_places)},
                    type);
}

HcclResult HcclAlltoAll(const void *input, uint64_t send_count, HcclDataType type, const void *output,
                        uint64_t receive_count, HcclDataType, HcclComm communicator, aclrtStream) {
  auto &group = *static_cast<Communicator *>(communicator);
  std::vector<uint64_t> sent(group.num_ranks(), send_count), received(group.num_ranks(), receive_count);
  std::vector<uint64_t> from(group.num_ranks()), to(group.num_ranks());
  for (uint32_t rank = 0; rank < group.num_ranks(); ++rank) {
    from[rank] = rank * send_count;
    to[rank] = rank * receive_count;
  }
  return all_to_all(group, "HcclAlltoAll", input, {sent.data(), from.data()}, const_cast<void *>(output),
                    {received.data(), to.data()}, type);
}

HcclResult HcclBarrier(HcclComm communicator, aclrtStream) {
  auto &group = *static_cast<Communicator *>(communicator);
  group.open({HCCL_CMD_BARRIER, HCCL_DATA_TYPE_INT8, 0, 0});
  const HcclResult error = group.meet_same("HcclBarrier");
  return error != HCCL_SUCCESS ? error : group.meet("HcclBarrier");
}

}  // extern "C"
