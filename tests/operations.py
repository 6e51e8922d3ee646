"""One layer of an engine, however many operations it is there."""

from nst_manual.vgg import Conv, Operation, Pool, Relu


def layer_of(engine, kernel, bias, *, relu=True, pooling=None, apart=False, padding="zero"):
    """A convolution, its ReLU and a pooling as one Operation; `apart` forbids the engine to fuse the pooling."""
    _, _, c_in, c_out = kernel.shape
    steps = (Conv("conv1_1", c_in, c_out, padding), *[Relu("conv1_1")] * relu, *[Pool("pool1")] * (pooling is not None))
    taps = {steps[-1].name, *(["conv1_1"] if apart else [])}
    return chained(engine.operations(steps, {"conv1_1": (kernel, bias)}, taps, pooling or "avg"))


def chained(operations):
    """Several operations as one."""

    def up(x):
        saved = []
        for operation in operations:
            x, own = operation.up(x)
            saved.append(own)
        return x, saved

    def down(d, saved):
        for operation, own in zip(reversed(operations), reversed(saved), strict=True):
            d = operation.down(d, own)
        return d

    return operations[0] if len(operations) == 1 else Operation(operations[-1].name, up, down)
