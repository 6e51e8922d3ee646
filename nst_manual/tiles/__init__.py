"""Any size: the same loss and gradient, computed in tiles of the picture, exactly.

Tiles partition the features: each position of each layer is one tile's. A tile sees its part of the picture and a halo
around it, as far as the receptive fields of its features reach. Moments of tiles add up, and so do their gradients in
the pixels, halos included. So an evaluation is: every tile's moments, one comparison of the sums with the targets, and
then every tile's gradient.

- plan.py: where the tiles are, and what of each layer they own and need.
- walk.py: one tile up and down: its moments, and its gradient once the comparison is known.
- pixels.py: the terms of the pixels themselves, in strips.
- objective.py: all tiles of one picture, one after the other; targets of large pictures.
"""
