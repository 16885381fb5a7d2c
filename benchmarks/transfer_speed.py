"""The logistic regressions of a nested cross-validation: all at once (tain) against one after the other (scikit-learn).

    python benchmarks/transfer_speed.py

4,000 texts of MR, vectors of tain-mini: ten folds, six strengths, 60 fits in all. Encoding is not counted. scikit-learn runs newton-cholesky, its
fastest solver here: the default (lbfgs) takes thousands of steps on vectors that are not scaled. Both must hand out the same classes, rows at the boundary aside.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression

from measuring import Claim, arguments, finish, in_turns, ratio_of
from tain.evaluation.suites.logistic import LogisticRegressions
from tain.evaluation.suites.registry import load_suites
from tain.evaluation.suites.suite import SuiteOptions
from tain.evaluation.suites.transfer import FOLDS, TransferSet, stratified_folds
from tain.models.embedder import Embedder


def main():
    chosen = arguments(__doc__)
    ((task,),) = (suite.sets for suite in load_suites(["mr"], SuiteOptions(data=chosen.data)))
    assert isinstance(task, TransferSet)
    kept = np.random.default_rng(13).permutation(len(task.labels))[: 800 if chosen.quick else 4000]
    labels = task.labels[kept]
    features = Embedder.load("tain-mini", dtype="float32").encode([task.left[row] for row in kept]).astype(np.float64)
    held_out = [fold for fold in stratified_folds(labels, FOLDS) for _ in task.strengths]
    strengths = np.tile(task.strengths, FOLDS)
    is_used = np.stack([~np.isin(np.arange(len(labels)), fold) for fold in held_out])

    def together():
        return LogisticRegressions(features, labels, classes=2).fit(is_used, strengths).predicted

    def one_by_one():
        fits = [
            LogisticRegression(C=c, solver="newton-cholesky").fit(features[used], labels[used])
            for c, used in zip(strengths, is_used, strict=True)
        ]
        return np.stack([fit.predict(features) for fit in fits])

    apart = float((together() != one_by_one()).mean())
    times = in_turns({"tain": together, "scikit-learn": one_by_one}, repeats=1 if chosen.quick else 3, warmups=0)
    ratio, spread = ratio_of(times["scikit-learn"], times["tain"])
    claim = Claim(
        claim="60 logistic regressions of a nested cross-validation against scikit-learn's, one after the other",
        ratio=ratio,
        unit="times scikit-learn's speed",
        goal=None,
        spread=spread,
        equal_within=apart,
    )
    finish("transfer_speed", [claim], {"rows": len(labels), "dim": features.shape[1], "seconds": times}, quick=chosen.quick)


if __name__ == "__main__":
    main()
