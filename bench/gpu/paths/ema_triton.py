"""EmaUpdate in Triton: a program a piece, the addresses from a table in device memory. A baseline; AuxCore does not use it."""

import torch
import triton
import triton.language as tl

BLOCKS = (256, 1024)  # elements of a program: for small tensors, for others


@triton.jit
def ema_pieces(
    sources, averages, counts, weights, AVERAGES: tl.constexpr, HALF: tl.constexpr, BRAIN: tl.constexpr, BLOCK: tl.constexpr
):
    piece = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < tl.load(counts + piece)
    address = tl.load(sources + piece)
    if BRAIN:
        source = tl.multiple_of(address.to(tl.pointer_type(tl.bfloat16)), 16)
    elif HALF:
        source = tl.multiple_of(address.to(tl.pointer_type(tl.float16)), 16)
    else:
        source = tl.multiple_of(address.to(tl.pointer_type(tl.float32)), 16)
    p = tl.load(source + offsets, mask=inside, other=0).to(tl.float32)
    for k in tl.static_range(AVERAGES):
        average = tl.multiple_of(tl.load(averages + piece * AVERAGES + k).to(tl.pointer_type(tl.float32)), 16)
        weight = tl.load(weights + k)
        e = tl.load(average + offsets, mask=inside, other=0)
        tl.store(average + offsets, e + weight * (p - e), mask=inside)


class Table:
    """The pieces of a list of tensors. PyTorch aligns tensors to 512 bytes and pieces begin at multiples of a block, so all are aligned."""

    def __init__(self, sources, averages, weights):
        self._dtype = sources[0].dtype
        self._block = BLOCKS[0] if max(source.numel() for source in sources) <= BLOCKS[0] else BLOCKS[1]
        self._averages = len(averages)
        pieces = [(i, start) for i, source in enumerate(sources) for start in range(0, source.numel(), self._block)]
        size = sources[0].element_size()
        self._count = len(pieces)
        self._table = [
            column([sources[i].data_ptr() + start * size for i, start in pieces], torch.int64),
            column([row[i].data_ptr() + start * 4 for i, start in pieces for row in averages], torch.int64),
            column([min(self._block, sources[i].numel() - start) for i, start in pieces], torch.int32),
            column(weights, torch.float32),
        ]

    def update(self):
        ema_pieces[(self._count,)](
            *self._table, AVERAGES=self._averages, HALF=self._dtype == torch.float16, BRAIN=self._dtype == torch.bfloat16,
            BLOCK=self._block, num_warps=2 if self._block == BLOCKS[0] else 4)


def column(values, dtype):
    return torch.tensor(values, dtype=dtype).cuda()
