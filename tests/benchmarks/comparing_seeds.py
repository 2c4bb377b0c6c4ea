"""How often the rule of `compare` errs where kinds are alike, and how often it finds what differs.

usage: python tests/benchmarks/comparing_seeds.py

Figures are normal with the same spread in both kinds; five seeds of each. A figure "differs" where the difference of
means exceeds what two seeds of one kind differ by and its p, corrected by Holm, is at most .05.
"""

import numpy as np
from vitcircuits.circuits.compare import holm, permutation_test

LEVEL, SEEDS, TRIALS = 0.05, 5, 4000


def differs(figures):
    """Which figures differ, of an array (figure, kind, seed)."""
    corrected = holm([permutation_test(first, second).p_value for first, second in figures])
    beyond = [abs(one.mean() - other.mean()) > max(np.ptp(one), np.ptp(other)) for one, other in figures]
    return np.array(corrected) <= LEVEL, np.array(beyond)


def main():
    chance = np.random.default_rng(0)
    single = [permutation_test(*chance.normal(size=(2, SEEDS))).p_value <= LEVEL for _ in range(TRIALS)]
    print(f"one exact test alone rejects {np.mean(single):.3f} of kinds that are alike")
    for n_figures in (5, 6):
        false, found = [], []
        for _ in range(TRIALS):
            shown, beyond = differs(chance.normal(size=(n_figures, 2, SEEDS)))
            false.append((shown & beyond).any())
            shifted = chance.normal(size=(n_figures, 2, SEEDS))
            shifted[0, 0] += 3  # standard deviations
            shown, beyond = differs(shifted)
            found.append((shown & beyond)[0])
        print(f"{n_figures} figures: any false 'differs' {np.mean(false):.3f}, a shift of 3 found {np.mean(found):.3f}")


if __name__ == "__main__":
    main()
