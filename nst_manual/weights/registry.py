"""The published VGG-19 files: size, checksum, licence and addresses."""

from dataclasses import dataclass

from ..errors import NSTError
from .fingerprint import LICENCES

_KERAS = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg19/",
    "https://github.com/fchollet/deep-learning-models/releases/download/v0.1/",
)


@dataclass(frozen=True)
class Known:
    """One published file. `size` is 0 and a checksum is empty if unknown; without a checksum it is not downloaded."""

    name: str
    what: str
    family: str
    file: str
    urls: tuple[str, ...] = ()
    size: int = 0
    sha256: str = ""
    md5: str = ""
    installs: str = ""  # the name under which `get` stores it in our format
    size_is_rough: bool = False

    @property
    def licence(self) -> str:
        return LICENCES[self.family]

    @property
    def downloadable(self) -> bool:
        return bool(self.urls and self.checksum)

    @property
    def checksum(self) -> str:
        """The strongest that is published, in pooch's notation."""
        return f"sha256:{self.sha256}" if self.sha256 else f"md5:{self.md5}" if self.md5 else ""


def _keras(name: str, what: str, file: str, size: int, md5: str) -> Known:
    urls = tuple(folder + file for folder in _KERAS)
    return Known(name, what, "oxford", file, urls, size, md5=md5, installs="vgg19.h5")


KNOWN_FILES = (
    _keras(
        "vgg19", "Oxford's numbers, without the classifier (Keras)",
        "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", 80134624, "253f8cb515780f3b799900260a226db6",
    ),
    _keras(
        "keras-full", "the same with the classifier (Keras)",
        "vgg19_weights_tf_dim_ordering_tf_kernels.h5", 574710816, "cbe5617147190e668d6c5d5026f83318",
    ),
    Known(
        "torchvision", "PyTorch's own training", "torchvision", "vgg19-dcbb9e9d.pth",
        ("https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",), 574673361,
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44", installs="vgg19-torchvision.h5",
    ),
    Known(
        "timm", "torchvision's numbers (timm)", "torchvision", "model.safetensors",
        ("https://huggingface.co/timm/vgg19.tv_in1k/resolve/main/model.safetensors",), 575_000_000,
        "11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669", installs="vgg19-torchvision.h5",
        size_is_rough=True,
    ),
    Known(
        "normalised", "Oxford's, every mean activation 1 (AdaIN)", "oxford", "vgg_normalised.pth",
        ("https://github.com/naoto0804/pytorch-AdaIN/releases/download/v0.0.0/vgg_normalised.pth",), 80102481,
        "804ca2835ecf7539f0cd2a7ac3c18ce81e6f8468969ae7117ac0c148d286bb4a", installs="vgg19-normalised.h5",
    ),
    Known(
        "matconvnet", "Oxford's (MatConvNet)", "oxford", "imagenet-vgg-verydeep-19.mat",
        ("https://www.vlfeat.org/matconvnet/models/imagenet-vgg-verydeep-19.mat",), 535_000_000,
        "abdb57167f82a2a1fbab1e1c16ad9373411883f262a1a37ee5db2e6fb0044695",
        "106118b7cf60435e6d8e04f6a6dc3657", installs="vgg19.h5", size_is_rough=True,
    ),
    Known("jcjohnson", "Oxford's (jcjohnson)", "oxford", "vgg19-d01eb7cb.pth",
          ("https://web.eecs.umich.edu/~justincj/models/vgg19-d01eb7cb.pth",)),
    Known("gatys", "Oxford's in float64 (Gatys)", "oxford", "vgg_conv.pth", (), 160198540),
    Known("caffe", "Oxford's, the original (Caffe)", "oxford", "VGG_ILSVRC_19_layers.caffemodel", (), 574671192,
          md5="b5c644beabd7cf06bdd9065cfd674c97"),
    Known("caffe-normalised", "Oxford's, every mean activation 1 (Gatys, Caffe)", "oxford",
          "vgg_normalised.caffemodel"),
)  # fmt: skip


def published() -> tuple[Known, ...]:
    return KNOWN_FILES


def downloadable_file(name: str) -> Known:
    """The file with this name in the table, if `get` can download it."""
    known = next((known for known in published() if known.name == name), None)
    if known is None:
        names = ", ".join(known.name for known in published() if known.downloadable)
        raise NSTError(f"there are no weights named {name!r} to download: choose one of {names}")
    if not known.downloadable:
        where = f" from {known.urls[0]}" if known.urls else ""
        raise NSTError(
            f"{name}: no checksum or no permanent address is published for {known.file}: get it yourself{where} and "
            f"run `weights convert {known.file} OUT.h5`"
        )
    return known
