"""The self-test's trials with smaller numbers: a fiber is no GPU."""

from nst_manual.proof.checks import NARROW
from nst_manual.vgg import steps_to

TABLES = {
    "SIZES": ((3, 17, 64, 64), (3, 9, 3, 64)),
    "MAPS": ((5, 13, 64), (8, 8, 64)),
    "CLOUDS": ((20, 33, 64), (25, 33, 70)),
    "FIRST_SIZE": (2, 32),
    "TILED": ((3, 5, 128, 128), (4, 4, 128)),
    "HISTORIES": (3,),
    "OTHERS": range(6, 15),
}
NETWORK = {"steps": steps_to("conv1_2", NARROW), "size": (4, 9)}
