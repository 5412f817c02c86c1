// Reductions of arrays, by element type.
#pragma once

#include <vector>

#include "communicator.h"

namespace virtual_npu {

// Whether HCCL reduces this type.
bool can_reduce(HcclDataType type);

// output[i] = op over all inputs of input[i]; 16-bit floating-point types are reduced in float32 and rounded once.
void reduce(const std::vector<const void *> &inputs, void *output, uint64_t count, HcclDataType type, HcclReduceOp op);

}  // namespace virtual_npu
