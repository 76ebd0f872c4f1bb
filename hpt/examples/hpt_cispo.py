"""HPT with CISPO as its online row: the importance ratio is bounded from above and no token is dropped.

MiniMax-M1 (Chen et al. 2025), Eq. 4 and 5, with the upper bound 1.28 of the package's row. Under the recipe
``released`` HPT's own online row has no clip at all (the authors removed it) and CISPO's advantage has no standard
deviation either, so the two methods differ in one thing: on the second update of a rollout batch, where a ratio is
above 1.28, CISPO takes 1.28. On the first update every ratio is 1 and the two are the same.
"""

from dataclasses import replace

from hpt.methods.methods import METHODS

_ONLINE, _OFFLINE = METHODS["hpt"].components
METHOD = replace(
    METHODS["hpt"], name="hpt_cispo", title="HPT, CISPO online", like="hpt",
    components=(replace(_ONLINE, row="cispo"), _OFFLINE),
)  # fmt: skip
