"""npu_grouped_matmul: one matrix product for each group of rows (group_type 0) or of columns (group_type 2)."""

from itertools import accumulate, pairwise
from typing import Any

import torch

from hal.testing.virtual_npu.kernels.host import on_host
from hal.testing.virtual_npu.kernels.refusals import (
    FLOATS,
    refuse,
    refuse_if_given,
    refuse_other_shape,
    refuse_other_types,
    refuse_unequal_types,
    refuse_unless_among,
)

ROWS, COLUMNS = 0, 2
"""Values of group_type: which axis of `x` the groups share out."""

_CUMULATIVE, _COUNTS = 0, 1
_MAX_GROUPS = 1024
_OPERATOR = "npu_grouped_matmul"


def npu_grouped_matmul(
    x: list[torch.Tensor],
    weight: list[torch.Tensor],
    *,
    group_list: torch.Tensor | None = None,
    split_item: int | None = 0,
    group_type: int | None = None,
    group_list_type: int | None = 0,
    act_type: int | None = 0,
    **others: Any,
) -> list[torch.Tensor]:
    """One tensor in `x`, one or more in `weight`, one result. Groups are shared out by `group_list`.

    Rows: x [tokens, in], weight [groups, in, out] (or as many [in, out]) -> [tokens, out]. Columns: x [out, tokens],
    weight [tokens, in] -> [groups, out, in]. What the documents leave open is filled with NaN: rows beyond the last
    group, and the products of groups without columns."""
    refuse_if_given(_OPERATOR, **others)
    refuse_unless_among(_OPERATOR, "split_item", split_item, (2, 3))
    refuse_unless_among(_OPERATOR, "group_type", group_type, (ROWS, COLUMNS))
    refuse_unless_among(_OPERATOR, "group_list_type", group_list_type, (_CUMULATIVE, _COUNTS))
    refuse_unless_among(_OPERATOR, "act_type", act_type, (0,))
    if len(x) != 1:
        refuse(_OPERATOR, "x", f"{len(x)} tensors", f"one, as split_item {split_item} says")
    if group_list is None:
        refuse(_OPERATOR, "group_list", "not given", f"int64, as group_type {group_type} says")
    return [_product(x[0], weight, group_list, group_type == ROWS, group_list_type == _COUNTS)]


@on_host
def _product(
    x: torch.Tensor, weight: list[torch.Tensor], group_list: torch.Tensor, by_rows: bool, counted: bool
) -> torch.Tensor:
    refuse_other_types(_OPERATOR, FLOATS, x=x)
    refuse_unequal_types(_OPERATOR, x=x, **{f"weight[{i}]": matrix for i, matrix in enumerate(weight)})
    if x.dim() != 2:
        refuse(_OPERATOR, "x", f"of shape {list(x.shape)}", "2 dimensions")
    bounds = _bounds(group_list, counted, x.shape[0 if by_rows else 1])
    if by_rows:
        matrices = _matrices(weight, len(bounds) - 1, x.shape[1])
        result = x.new_full((x.shape[0], matrices[0].shape[1]), float("nan"))
        for (start, end), matrix in zip(pairwise(bounds), matrices, strict=True):
            result[start:end] = (x[start:end].float() @ matrix.float()).to(x.dtype)
        return result
    (columns,) = weight if len(weight) == 1 else _refuse_many(weight)
    refuse_other_shape(
        _OPERATOR, "weight[0]", columns, (x.shape[1], *columns.shape[1:2]), "the columns of 'x' first"
    )
    result = x.new_full((len(bounds) - 1, x.shape[0], columns.shape[1]), float("nan"))
    for group, (start, end) in enumerate(pairwise(bounds)):
        if start < end:
            result[group] = (x[:, start:end].float() @ columns[start:end].float()).to(x.dtype)
    return result


def _matrices(weight: list[torch.Tensor], groups: int, rows: int) -> list[torch.Tensor]:
    matrices = list(weight[0]) if len(weight) == 1 and weight[0].dim() == 3 else weight
    if len(matrices) != groups:
        refuse(_OPERATOR, "weight", f"{len(matrices)} matrices", f"{groups}, the length of 'group_list'")
    for index, matrix in enumerate(matrices):
        refuse_other_shape(
            _OPERATOR, f"weight[{index}]", matrix, (rows, *matrix.shape[1:2]), "the columns of 'x' first"
        )
    return matrices


def _refuse_many(weight: list[torch.Tensor]) -> list[torch.Tensor]:
    refuse(_OPERATOR, "weight", f"{len(weight)} tensors", f"one, as group_type {COLUMNS} says")


def _bounds(group_list: torch.Tensor, counted: bool, size: int) -> list[int]:
    """Where groups start and end along the axis that they share out."""
    refuse_other_types(_OPERATOR, (torch.int64,), group_list=group_list)
    if group_list.dim() != 1 or not 1 <= group_list.numel() <= _MAX_GROUPS:
        refuse(
            _OPERATOR,
            "group_list",
            f"of shape {list(group_list.shape)}",
            f"1 dimension of 1 to {_MAX_GROUPS}",
        )
    numbers = [int(number) for number in group_list]
    bounds = [0, *(accumulate(numbers) if counted else numbers)]
    if any(end < start for start, end in pairwise(bounds)):
        refuse(
            _OPERATOR, "group_list", numbers, "sizes of at least 0" if counted else "ends, which do not fall"
        )
    if bounds[-1] > size:
        refuse(
            _OPERATOR,
            "group_list",
            f"groups up to {bounds[-1]}",
            f"at most {size}, the size of 'x' along the groups",
        )
    return bounds
