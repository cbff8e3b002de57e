"""The plan that ``secateur init`` writes."""

STARTER = """\
# A plan: data, model, steps, audits.
# Run it with "secateur run plan.toml"; change a key with --set unlearn.gamma=1e-3.

seed = 0
threads = 1

[data]
use = "digits"               # or "package.module:function" that gives a secateur.zoo.Collection
test = 0.7                   # 539 images to learn by heart
noise = 0.05                 # one label in twenty is wrong: only memory can learn it
forget = { how = "class", classes = [3] }
# or { how = "random", share = 0.1 }, or { how = "rows", rows = [1, 5] }

[model]
use = "small-cnn"            # or "package.module:callable"; weights = "file.safetensors" for a trained one
width = 12

[[step]]
use = "train"
epochs = 20
batch = 64
lr = 0.2
nesterov = true
schedule = "one-cycle"

[[step]]
use = "l1-sparse"            # "secateur methods" lists them, "secateur card l1-sparse" tells the knobs
as = "unlearn"
epochs = 5
batch = 64
lr = 0.1
gamma = 2e-3

[[audit]]
use = "accuracy"

[[audit]]
use = "mia-efficacy"

[[audit]]
use = "retrain-gap"          # trains five models without the forget rows, to compare with
"""
