"""Three custom algorithms, each as a user would write it: a module named ``hpt.examples.x:METHOD``.

    smooth_gate.py        Eq. 9 with sigmoids f and g instead of the switch of Eq. 10
    hpt_cispo.py          HPT with CISPO as its online row
    least_error_gate.py   the gate of least error, derived from what `hpt.laboratory.gates` measures

How they compare with HPT, GRPO and SFT is the artefact ``own_algorithms``; how to write another one is shown in
`notebooks/own_algorithm.ipynb`. Start with `smooth_gate.py`; the package needs none of them. They take the settings
the search chose for HPT on the same base (``like="hpt"``).
"""
