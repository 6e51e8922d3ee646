"""What the CPU engine's steps need in memory, from the sizes of its own blocks, strips and parts."""

from collections import Counter

from ..needs import Need, ReferenceNeeds, Shape
from . import first_layer as direct
from .losses import BLOCK, PIECE, gram_parts
from .winograd import scratch_sizes

FLOAT = 4


class CpuNeeds(ReferenceNeeds):
    """Of so many threads; steps that the engine leaves to the reference are the reference's."""

    def __init__(self, threads: int) -> None:
        super().__init__(FLOAT)
        self.threads = threads

    def fixed(self, shapes: list[tuple[str, Shape]]) -> int:
        """Each thread's buffers, and those of the part of a wide layer that is at work."""
        each: Counter[str] = Counter()
        for step, shape in shapes:
            if not step.startswith("conv_relu"):
                continue
            turned = shape._replace(c_in=shape.c_out, c_out=shape.c_in)
            if shape.c_in == 3:
                each |= Counter(direct.scratch_sizes(*shape))
            else:
                each |= Counter(scratch_sizes(*shape)) | Counter(scratch_sizes(*turned))
        whole = each.pop("v", 0) + each.pop("product", 0)
        return FLOAT * (whole + self.threads * sum(each.values()))

    def filters(self, c_in: int, c_out: int, linear: bool) -> int:
        if linear:
            return super().filters(c_in, c_out, linear)
        return FLOAT * (2 * 27 if c_in == 3 else 36 * c_in) * c_out

    def up(self, step: str, shape: Shape, pooling: str) -> Need:
        if not step.startswith("conv_relu") or (step == "conv_relu_pool" and shape.c_in == 3):
            return super().up(step, shape, pooling)
        if shape.c_in == 3:
            return Need(self._y(shape), shape.pixels() * 3 * FLOAT)  # the image itself
        mask = shape.pixels() * -(-shape.c_out // 8)
        pooled = shape.pooled() * shape.c_out * FLOAT
        return Need(pooled if step == "conv_relu_pool" else self._y(shape), mask)

    def down(self, step: str, shape: Shape, pooling: str) -> Need:
        if not step.startswith("conv_relu") or (step == "conv_relu_pool" and shape.c_in == 3):
            return super().down(step, shape, pooling)
        d_x = shape.pixels() * shape.c_in * FLOAT
        if shape.c_in != 3:
            return Need(d_x)
        strip = min(shape.pixels(), max(direct.PIXELS, shape.width))  # its ReLU's mask, and what its pixels get
        return Need(d_x, 0, self.threads * strip * (shape.c_out + 2 * 3 * FLOAT))

    def loss(self, kind: str, shape: Shape) -> Need:
        if kind == "content":
            return Need(self._y(shape), 0, self.threads * max(PIECE, shape.c_out) * FLOAT)  # squares of differences
        gradient = 0 if shape.c_in == 3 else self._y(shape)
        return Need(gradient, 0, self.gram(shape, kind == "guided"))

    def gram(self, shape: Shape, guided: bool) -> int:
        """The parts' products wait for each other."""
        parts = gram_parts(shape.pixels(), shape.c_out)
        scaled = 2 * guided * self.threads * int(parts[0].stop) * min(BLOCK, shape.c_out)
        return FLOAT * ((len(parts) + 1) * shape.c_out**2 + scaled)
