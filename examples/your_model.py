"""Your own model, trained elsewhere, and your own data set: forget rows that were labelled wrongly.

The weights come from a plain torch loop and go back as a plain state dict, which loads strictly.
"""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

import secateur as sc

run = sc.Run(seed=0, threads=1)

# --- yours: a data set of (x, y), a network that returns an object, and a training loop -------------------

MISLABELLED = np.arange(60)  # rows that one broken scanner labelled
HOLDOUT = np.arange(1000, 1200)  # rows that the model never saw: you know, nobody else can
TEST = np.arange(1200, 1797)


class Scans(Dataset):
    def __init__(self):
        images, labels = load_digits(return_X_y=True)
        self.images = torch.tensor(images / 16, dtype=torch.float32)
        self.labels = labels.copy()
        self.labels[MISLABELLED] = (labels[MISLABELLED] + 1) % 10

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.images[i], int(self.labels[i])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        return SimpleNamespace(logits=self.head(self.body(x)))


def train_elsewhere(net, rows):
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        for x, y in DataLoader(rows, batch_size=64, shuffle=True):
            sgd.zero_grad()
            nn.functional.cross_entropy(net(x).logits, y).backward()
            sgd.step()
    return net


scans = Scans()
with run.steady(), run.seeded("elsewhere"):  # only so that the example repeats itself
    trained = train_elsewhere(Net(), Subset(scans, range(1000)))

# --- ours: an adapter, roles, unlearning, the judgement ----------------------------------------------------


class LogitsOnly(Net):
    def forward(self, x):
        return super().forward(x).logits  # the adapter: a subclass keeps the names of the weights


model = LogitsOnly()
model.load_state_dict(trained.state_dict())

split = sc.Split.of(Subset(scans, range(1200)), forget=MISLABELLED, holdout=HOLDOUT, test=Subset(scans, TEST))
original = sc.State.of(LogitsOnly, split, run, model=model)


def accuracy(outputs):
    return outputs.correct.mean()


# chosen on the holdout, reported on test; here the less is left of the wrong labels, the better
before = sc.observe(original.model, split, run)
print(
    f"original           forget {accuracy(before['forget']):.0%}, holdout {accuracy(before['holdout']):.0%}"
)
best, best_kept = original, 1.0
for step in (
    sc.steps.FineTune(epochs=10, batch=64, lr=0.05, decay=0.0),
    sc.steps.L1Sparse(epochs=10, batch=64, lr=0.05, decay=0.0, gamma=1e-3),
):
    state = sc.apply(step, original, run).state
    said = sc.observe(state.model, split, run)
    kept, held = accuracy(said["forget"]), accuracy(said["holdout"])
    print(f"{type(step).__name__:18} forget {kept:.0%}, holdout {held:.0%}")
    if kept < best_kept and held > accuracy(before["holdout"]) - 0.02:
        best, best_kept = state, kept

# one exact retrain to look at; a verdict would need five
retrain = sc.steps.Retrain(epochs=40, batch=64, lr=0.1, decay=0.0, schedule="constant")
other = sc.apply(retrain, original, sc.Run(seed=1, threads=1)).state
evidence = sc.Evidence(
    before=before,
    after=sc.observe(best.model, split, run),
    references=[sc.Reference.retrained(sc.observe(other.model, split, run), split)],
)
for finding in sc.judge([sc.audits.Accuracy(), sc.audits.RetrainGap()], evidence):
    print(finding)

# --- and back: a plain state dict that your own class loads strictly ---------------------------------------

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "unlearned.safetensors"
    save_file(best.model.state_dict(), path)
    Net().load_state_dict(load_file(path), strict=True)
    print(f"{path.name}: {path.stat().st_size:,} bytes, loads into {Net.__name__}")
