"""The whole story by hand: train, prune, make it forget a digit, and judge that against exact retrains."""

import secateur as sc

# 719 digits to learn by heart, 1,078 to test on; every image of a 3 shall be forgotten
digits = sc.zoo.digits(test=0.6)
x, y = digits.train
split = sc.Split.of(x, y, forget=y == 3, test=digits.test)
run = sc.Run(seed=0, threads=1)


def build():
    return sc.zoo.small_cnn(width=8)


recipe = {"epochs": 20, "batch": 64, "lr": 0.2, "nesterov": True, "schedule": "one-cycle"}

# prune first: train, keep the largest tenth of the weights as they were after two epochs, train again ...
state = sc.State.of(build, split, run)
state = sc.apply(sc.steps.Train(**recipe, keep=(2,)), state, run).state
state = sc.apply(sc.steps.Magnitude(sparsity=0.9, rewind="epoch-2"), state, run).state
sparse = sc.apply(sc.steps.Train(**recipe, start=2), state, run).state

# ... then unlearn ...
unlearned, trace = sc.apply(sc.steps.L1Sparse(epochs=5, batch=64, lr=0.1, gamma=3e-3), sparse, run)

# ... and retrain exactly, under seeds of its own: with fewer than five the verdict is "inconclusive"
references = []
for seed in range(101, 106):
    other = sc.apply(sc.steps.Retrain(**recipe), sparse, sc.Run(seed=seed, threads=1)).state
    references.append(sc.Reference.retrained(sc.observe(other.model, split, run), split))

evidence = sc.Evidence(
    before=sc.observe(sparse.model, split, run),
    after=sc.observe(unlearned.model, split, run),
    references=references,
)
print(f"{trace.step}: {trace.seconds:.1f} s, {trace.sparsity:.0%} zeros, rows drawn: {dict(trace.drawn)}")
for finding in sc.judge([sc.audits.Accuracy(), sc.audits.MiaEfficacy(), sc.audits.RetrainGap()], evidence):
    print(finding)
