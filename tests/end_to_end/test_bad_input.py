"""Whatever a user gets wrong: a sentence that says what to do, the right exit code, no traceback, no harm."""

import hashlib
import re
from typing import NamedTuple

import pytest
import torch

from secateur.lab.freeze import pack_weights
from secateur.zoo import small_cnn

from ..pictures import class_folders, labels, noise, parquet, two_classes

MODELS = '''
import torch
from torch import nn
from secateur.zoo import small_cnn

class Nan(nn.Module):
    def __init__(self, *, classes: int):
        super().__init__()
        self.body = small_cnn(classes=classes, width=2)
    def forward(self, x):
        return self.body(x) * float("nan")

class Late(Nan):
    """NaN in evaluation mode only."""
    def forward(self, x):
        return self.body(x) * (1.0 if self.training else float("nan"))

class Named(Nan):
    def forward(self, x):
        return {"logits": self.body(x)}

class Flat(Nan):
    def forward(self, x):
        return self.body(x).argmax(1)

class Wide(Nan):
    def forward(self, x):
        return self.body[0](x.flatten(1)) @ torch.zeros(3, 3)

def data(): return [1, 2, 3]
'''


class Case(NamedTuple):
    """A command, what it must end with, and what it must say; ``sets`` go to ``run plan.toml``."""

    name: str
    code: int
    says: list[str]
    sets: list[str] = []  # noqa: RUF012
    words: str = "run plan.toml"


ROWS = "data.forget={how='rows', rows=[%s]}"
WEIGHTS = 'model.weights="weights/%s.safetensors"'
IMAGES = "data={use='images', path='data/%s', %s}"
FORGET = "forget={how='class', classes=[0]}"

CASES = [
    # --- the plan file ---
    Case(
        "no plan file",
        2,
        ['cannot read the plan "absent.toml"', "No such file", "secateur init"],
        words="run absent.toml",
    ),
    Case("a folder as plan", 2, ['cannot read the plan "weights"', "Is a directory"], words="run weights"),
    Case("not TOML", 2, ["1 fault", "it is not TOML", "line 1"], words="run odd.toml"),
    Case("not text", 2, ["cannot read the plan", "utf-8"], words="run weights/good.safetensors"),
    Case("an empty plan", 2, ["3 faults", '"data"', '"model"', '"step" is missing'], words="run empty.toml"),
    # --- keys and values ---
    Case(
        "wrong type", 2, ["step 1", "epochs should be a valid integer, got 'three'"], ["train.epochs=three"]
    ),
    Case("a text for a table", 2, ['"data" should be a table', "got 'digits'"], ["data=digits"]),
    Case(
        "sparsity 1.0",
        2,
        ["sparsity should be less than 1, got 1.0"],
        ["unlearn={use='magnitude', sparsity=1.0}"],
    ),
    Case("infinite lr", 2, ["lr should be a finite number, got inf"], ["train.lr=inf"]),
    Case("unknown key", 2, ['unknown key "thread", did you mean "threads"?'], words="run thread.toml"),
    Case("unknown knob", 2, ['unknown key "momentun", did you mean "momentum"?'], ["train.momentun=0.5"]),
    Case(
        "unknown step",
        2,
        ['no step is called "fine-tun": did you mean "fine-tune"?'],
        ["unlearn.use=fine-tun"],
    ),
    Case(
        "unknown audit",
        2,
        ['no audit is called "acuracy": did you mean "accuracy"?'],
        ["audit=[{use='acuracy'}]"],
    ),
    Case("unknown data set", 2, ['none is called "digit", did you mean "digits"?'], ["data.use=digit"]),
    Case(
        "unknown model", 2, ['none is called "small_cnn", did you mean "small-cnn"?'], ["model.use=small_cnn"]
    ),
    Case(
        "tail >= epochs",
        2,
        ["step 2", "tail = 3 leaves no epoch of 3"],
        ["unlearn={use='l1-sparse', epochs=3, tail=3}"],
    ),
    Case("start >= epochs", 2, ["step 1", "start = 2 leaves nothing of a schedule of 1"], ["train.start=2"]),
    Case("a mark after the end", 2, ["keep = 5 is outside the epochs 0..1"], ["train.keep=[5]"]),
    Case(
        "a device that is not here",
        2,
        ['expected a device that is here, got "cuda"', '"cpu"'],
        ["device=cuda"],
    ),
    Case("a device that is none", 2, ['got "abacus"', 'use "cpu" or "auto"'], ["device=abacus"]),
    Case(
        "a device without numbers",
        2,
        ['expected device "auto", "cpu" or "cuda", got "meta"'],
        ["device=meta"],
    ),
    Case(
        "more threads than any machine has",
        2,
        ["threads should be less than or equal to 1024"],
        ["threads=1000000"],
    ),
    Case(
        "two faults in two places",
        2,
        ["2 faults", "threads should be", "lr should be"],
        ["threads=0", "train.lr=0"],
    ),
    # --- --set and other flags ---
    Case("--set without a value", 2, ['expected --set key=value, got "seed"'], ["seed"]),
    Case(
        "--set of nothing",
        2,
        ['"prune.sparsity" names no key of the plan and no step of it'],
        ["prune.sparsity=0.5"],
    ),
    Case(
        "--set that an axis overrules",
        2,
        ["--set seed would have no effect", "--set grid.seed=[...]"],
        words="grid axes.toml --set seed=1",
    ),
    Case(
        "run on axes",
        2,
        ["has axes and stands for 2 runs", 'use "secateur grid axes.toml"'],
        words="run axes.toml",
    ),
    Case("an empty axis", 2, ['axis "seed" should be a list of values, not empty'], ["grid.seed=[]"]),
    Case(
        "--report into a missing folder",
        2,
        ['cannot write the report "no/page.html"', "folder that exists"],
        words="run plan.toml --report no/page.html",
    ),
    Case(
        "--report onto a folder",
        2,
        ['cannot write the report "weights"'],
        words="grid plan.toml --report weights",
    ),
    Case(
        "report into a missing folder",
        2,
        ['cannot write the report "no/page.html"'],
        words="report -o no/page.html",
    ),
    Case(
        "init over a file",
        2,
        ['cannot write "plan.toml" (File exists)', "does not exist yet"],
        words="init plan.toml",
    ),
    Case(
        "init in a missing folder",
        2,
        ['cannot write "no/plan.toml" (No such file'],
        words="init no/plan.toml",
    ),
    Case("an unknown card", 2, ['no step or audit is called "synflo"'], words="card synflo"),
    Case(
        "a card that does not import", 2, ['cannot import "no_such_module"'], words="card no_such_module:Step"
    ),
    # --- requests ---
    Case("a class named twice", 2, ["data.forget: class 3 is named 2 times"], ["data.forget.classes=[3, 3]"]),
    Case(
        "empty classes", 2, ["classes = [] names none: name at least one class"], ["data.forget.classes=[]"]
    ),
    Case("an empty forget set", 2, ["rows = [] names none: name at least one row"], [ROWS % ""]),
    Case(
        "share and count",
        2,
        ['either "share" or "count"'],
        ["data.forget={how='random', share=0.1, count=3}"],
    ),
    Case(
        "forget every row",
        3,
        ["expected rows to retain", "name all 359"],
        [ROWS % ", ".join(map(str, range(359)))],
    ),
    Case("forget every class", 3, ["expected rows to retain"], ["data.forget.classes=[0,1,2,3,4,5,6,7,8,9]"]),
    Case(
        "a row out of range",
        3,
        ["rows of the training data in data.forget, ids 0..358, got 359: name rows that are there"],
        [ROWS % "5, 359"],
    ),
    Case(
        "held-out rows out of range",
        3,
        ["in data.holdout, ids 0..358, got 400: name"],
        ["data.holdout=[400]"],
    ),
    Case("a row named twice", 3, ["row 5 is named 2 times"], [ROWS % "5, 5"]),
    Case("forgotten and held out", 3, ["1 are both (the first: 7)"], [ROWS % "6, 7", "data.holdout=[7, 8]"]),
    Case(
        "a mark that is none",
        2,
        ["rewind should be written as \"epoch-N\", got 'two'"],
        ["unlearn={use='magnitude', rewind='two'}"],
    ),
    Case(
        "an absent class",
        3,
        ["classes that training rows have, got 12, which none has"],
        ["data.forget.classes=[12]"],
    ),
    Case(
        "more random rows than there are",
        3,
        ["at most 359 rows to forget, got 360"],
        ["data.forget={how='random', count=360}"],
    ),
    Case(
        "a file of rows that is missing",
        3,
        [
            'row ids in "absent.txt", one a line',
            "No such file or directory",
            "correct the path in data.forget",
        ],
        ["data.forget={how='file', path='absent.txt'}"],
    ),
    Case(
        "a file of rows that is none",
        3,
        ['row id in line 1 of "odd.toml"', "got '[data'"],
        ["data.forget={how='file', path='odd.toml'}"],
    ),
    Case(
        "a column that digits lack",
        3,
        ['a column "subject" to choose rows by', "one of: mislabelled"],
        ["data.forget={how='column', column='subject', equals='ann'}"],
    ),
    Case(
        "a column that is not there",
        3,
        ['a column "subjct"', 'did you mean "subject"?'],
        [IMAGES % ("good", "forget={how='column', column='subjct', equals='ann'}")],
    ),
    Case(
        "a value of another kind",
        3,
        ["('s0' in the first row), got 0: write it as the column has it"],
        [IMAGES % ("good", "forget={how='column', column='subject', equals=0}")],
    ),
    # --- images ---
    Case("images from nowhere", 2, ['data: "path" is missing'], ["data={use='images', forget={}}"]),
    Case(
        "data.path that is no folder",
        3,
        ['expected data.path to be a folder, got "data/absent", which is none: name the folder'],
        [IMAGES % ("absent", FORGET)],
    ),
    Case(
        "data.path that is a file",
        3,
        ['got "data/good/train.parquet"'],
        [IMAGES % ("good/train.parquet", FORGET)],
    ),
    Case(
        "an empty folder",
        3,
        [
            'data.path = "data/empty" to be a data set',
            "doesn't contain any data files",
            "put parquet files there",
        ],
        [IMAGES % ("empty", FORGET)],
    ),
    Case(
        "a folder of text", 3, ["a column of images, got the columns text, none"], [IMAGES % ("text", FORGET)]
    ),
    Case(
        "a table without images",
        3,
        ["a column of images, got the columns a, b, none"],
        [IMAGES % ("table", FORGET)],
    ),
    Case(
        "a folder of files that nothing reads",
        3,
        ["cannot be read as one", "No (supported) data files", "put parquet files there"],
        [IMAGES % ("odd", FORGET)],
    ),
    Case(
        "a damaged parquet file",
        3,
        ["cannot be read as one", "Parquet magic bytes"],
        [IMAGES % ("damaged", FORGET)],
    ),
    Case("a program as data", 3, ["cannot be read as one", "scripts"], [IMAGES % ("script", FORGET)]),
    Case(
        "images without classes",
        3,
        ["a column of classes, got the columns image, none of which could be it"],
        [IMAGES % ("plain", FORGET)],
    ),
    Case(
        "two columns that could be the label",
        3,
        ['got label and subject: name the one that you mean, data.label = "label"'],
        [IMAGES % ("numbers", FORGET)],
    ),
    Case(
        "an unknown image column",
        3,
        ['a column "imag" of images: none is called so, did you mean "image"?'],
        [IMAGES % ("good", "image='imag', " + FORGET)],
    ),
    Case(
        "a label that is none",
        3,
        ['whole numbers or words in the column "image"', "name another as data.label"],
        [IMAGES % ("good", "label='image', " + FORGET)],
    ),
    Case(
        "rows without a label",
        3,
        ['a class for each row of the split "train", got 2 without one in "label": take out'],
        [IMAGES % ("unlabelled", FORGET)],
    ),
    Case(
        "images of several sizes",
        3,
        ['one size in the split "train", got 8 x 8 in row 0 and 9 x 8 in row 2', "data.size"],
        [IMAGES % ("mixed", FORGET)],
    ),
    Case(
        "an image that is none",
        3,
        [
            'an image in row 1 of the split "train"',
            "cannot identify image file",
            "mend the row, or take it out",
        ],
        [IMAGES % ("unreadable", FORGET)],
    ),
    Case(
        "no split to test on",
        3,
        ["add it to the folder, or say which share of the training rows to take, data.test = 0.2"],
        [IMAGES % ("untested", FORGET)],
    ),
    Case(
        "no split to test on, by name",
        3,
        ['"train", called test or validation or valid or val, and there is none: add it to the folder'],
        [f"data={{use='svhn', path='data/untested', {FORGET}}}"],
    ),
    Case(
        "a share beside a split",
        3,
        ['data.test = 0.5: the folder has a split for it, "test"; leave the share out'],
        [IMAGES % ("good", "test=0.5, " + FORGET)],
    ),
    Case(
        "a limit above the rows",
        3,
        ["data.limit of at most 6, the training rows that there are, got 7: take less"],
        [IMAGES % ("good", "limit=7, " + FORGET)],
    ),
    Case(
        "a limit of nothing",
        2,
        ["data: limit should be greater than or equal to 1, got 0"],
        [IMAGES % ("good", "limit=0, " + FORGET)],
    ),
    Case(
        "a row that the limit left out",
        3,
        ["of which 2 are here"],
        [IMAGES % ("good", "limit=2, forget={how='rows', rows=[0, 1]}")],
    ),
    Case(
        "constants for other channels",
        2,
        ["one number in `mean` for each of 3 channels, got 1"],
        [IMAGES % ("good", "mean=[0.1], " + FORGET)],
    ),
    Case(
        "the hub without a network",
        3,
        ['to read "uoft-cs/cifar10" from the Hugging Face hub', "name its folder as data.path"],
        [f"data={{use='cifar10', {FORGET}}}"],
    ),
    # --- models and weights ---
    Case(
        "a model that says NaN",
        5,
        ["expected a finite loss, got nan", "lower lr", 'in the step "train"'],
        ["model={use='badmodels:Nan'}"],
    ),
    Case(
        "a model that says NaN when asked",
        5,
        ["expected finite logits", "nothing can be judged by them"],
        ["model={use='badmodels:Late'}"],
    ),
    Case(
        "a model that returns a mapping",
        3,
        ["returns logits [b, classes], got dict"],
        ["model={use='badmodels:Named'}"],
    ),
    Case(
        "a model that returns classes",
        3,
        ["returns logits [b, classes], got a tensor of shape (2,)"],
        ["model={use='badmodels:Flat'}"],
    ),
    Case(
        "a model for other data",
        3,
        ["expected images [b, 1, h, w], got a tensor of shape (2, 64)"],
        ["model={use='badmodels:Wide'}"],
    ),
    Case(
        "a model with too few classes",
        3,
        ["expected labels in 0..2", "got label 9", "10 classes"],
        ["model.classes=3"],
    ),
    Case(
        "a model that cannot be built",
        3,
        ['"small-cnn" with', "width = -2", "raised RuntimeError"],
        ["model.width=-2"],
    ),
    Case(
        "an address that does not import",
        2,
        ['cannot import "no_such_module"', "install it"],
        ["model={use='no_such_module:Net'}"],
    ),
    Case(
        "an address without a name",
        2,
        ['"badmodels" holds no "Missing"'],
        ["model={use='badmodels:Missing'}"],
    ),
    Case(
        "data that are none",
        3,
        ["to give a secateur.zoo.Collection, got list"],
        ["data.use=badmodels:data", "data={use='badmodels:data', forget={how='class', classes=[1]}}"],
    ),
    Case(
        "data that cannot be made", 3, ['"digits" with noise = 3.0', "raised ValueError"], ["data.noise=3.0"]
    ),
    Case(
        "weights cut short",
        3,
        ["expected weights as safetensors", "weights/short.safetensors"],
        [WEIGHTS % "short"],
    ),
    Case(
        "weights of another shape",
        3,
        ["weights that fit the architecture exactly", "has shape"],
        [WEIGHTS % "wide"],
    ),
    Case(
        "weights of another network",
        3,
        ["weights that fit the architecture exactly", "1.weight is not in the architecture"],
        ["model={use='resnet20s', weights='weights/good.safetensors'}"],
    ),
    Case("missing weights", 3, ["weights/absent.safetensors", "No such file"], [WEIGHTS % "absent"]),
    Case("a pickle as weights", 3, ["expected weights as safetensors"], ["model.weights='odd.toml'"]),
    Case(
        "foreign weights and a holdout share",
        3,
        ["holdout rows that the given model never saw", "name rows"],
        [WEIGHTS % "good", "data.holdout=0.1"],
    ),
    Case(
        "rewind without a mark",
        3,
        ['expected a mark "epoch-1" to rewind to, got these: none', "keep = [1]"],
        ["unlearn={use='magnitude', sparsity=0.5, rewind='epoch-1'}"],
    ),
    Case(
        "an audit without its rows",
        2,
        ['"reference" is missing', "add [reference]"],
        ["step=[{use='fine-tune'}]", "audit=[{use='retrain-gap'}]"],
    ),
    # --- stores ---
    Case(
        "a file for a store",
        4,
        ['cannot write "odd.toml"', "name another --store"],
        words="run plan.toml --store odd.toml",
    ),
    Case(
        "a store that cannot be made",
        4,
        ['cannot write "/proc/no/store"'],
        words="grid plan.toml --store /proc/no/store",
    ),
    Case(
        "a damaged record, reported",
        4,
        ["is not what was written", "record.json", "delete the folder"],
        words="report --store damaged",
    ),
    Case(
        "a damaged record, to be known by all that is to stay",
        4,
        ["expected runs that can be read, to know what they need", "is not what was written"],
        words="store gc --store damaged",
    ),
    Case("no store to check", 4, ['expected a store in "nowhere"'], words="store check --store nowhere"),
    Case(
        "an export onto something",
        2,
        ['expected a folder that is not there yet, got "damaged"'],
        words="store export abc damaged",
    ),
    Case(
        "an unknown run",
        3,
        ['expected the key of one run in ".secateur", got "abc"', "run a plan first"],
        words="audit abc",
    ),
    Case(
        "an unknown run in the report",
        3,
        ['expected the key of one run in "damaged", got "xyz": one of'],
        words="report xyz --store damaged",
    ),
    Case("no runs to report", 3, ['expected runs in ".secateur", found none'], words="report"),
    Case("an unknown audit of a run", 2, ['no audit is called "acuracy"'], words="audit abc --use acuracy"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a good plan and bad files around it."""
    from secateur.lab import expand, load, run_plan

    from ..plans import TINY

    folder = tmp_path_factory.mktemp("bad")
    (folder / "plan.toml").write_text(TINY)
    (folder / "axes.toml").write_text(TINY + "[grid]\nseed = [0, 1]\n")
    (folder / "thread.toml").write_text(TINY.replace("threads", "thread"))
    (folder / "odd.toml").write_text("[data\n")
    (folder / "empty.toml").write_text("")
    (folder / "badmodels.py").write_text(MODELS)
    pictures(folder / "data")
    (folder / "weights").mkdir()
    good = pack_weights(small_cnn(width=2), {})
    for name, data in (("good", good), ("short", good[:-9]), ("wide", pack_weights(small_cnn(width=3), {}))):
        (folder / "weights" / f"{name}.safetensors").write_bytes(data)
    (plan,) = expand(load(folder / "plan.toml"))
    record = run_plan(plan, folder / "damaged")
    for path in (
        folder / "damaged/runs" / record.key / "record.json",
        *folder.glob("damaged/steps/*/state.safetensors"),
    ):
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)
    return folder


def pictures(folder):
    """A good set of images, and bad ones."""
    two_classes(folder / "good", subject=[f"s{i}" for i in range(6)])
    for name in ("numbers", "untested", "mixed", "unreadable", "unlabelled"):
        images = [noise(i, (8, 8)) for i in range(4)]
        columns = {"label": labels(["cat", "dog"], [0, 1, 0, 1])}
        if name == "numbers":
            columns = {"label": [0, 1, 0, 1], "subject": ["ann", "bob"] * 2}
        elif name == "mixed":
            images[2] = noise(2, (9, 8))
        elif name == "unreadable":
            images[1] = b"nonsense"
        elif name == "unlabelled":
            columns = {"label": labels(["cat", "dog"], [0, -1, 1, -1])}
        for split in ("train", "test") if name != "untested" else ("train",):
            parquet(folder / name / f"{split}.parquet", images, **columns)
    for name, text in {
        "text/a.txt": "hello",
        "table/train.csv": "a,b\n1,2\n",
        "odd/a.xyz": "?",
        "damaged/train.parquet": "no parquet at all",
        "script/script.py": "raise SystemExit(1)",
    }.items():
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)
    (folder / "empty").mkdir()
    class_folders(folder, {"plain": [noise(0), noise(1)]})


def snapshot(folder):
    """Every file and what is in it, but for Python's own."""
    files = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def check(case, code, out, err):
    told = re.sub(r"\s+", " ", err)
    assert code == case.code, (code, out, err)
    assert "Traceback" not in out + err
    for said in case.says:
        assert said in told, err
    assert out == ""
    # one sentence for each fault: "secateur: ...", or a heading and a list
    first, *rest = err.rstrip("\n").split("\n")
    assert first.startswith("secateur: ")
    faults = re.search(r"has (\d+) faults?:$", first)
    assert len(rest) == (int(faults[1]) if faults else 0)
    assert all(line.startswith("  - ") and len(line) > 20 for line in rest)
    assert not re.search(r"<\w+ object at 0x|\bNone has\b", err)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_told_in_words(cli, place, monkeypatch, case):
    if case.name == "a device that is not here" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so naming one is no mistake here")
    monkeypatch.chdir(place)
    before = snapshot(place)
    words = case.words.split()
    told = cli(*words, *(word for one in case.sets for word in ("--set", one)))
    check(case, *told)
    after = snapshot(place)
    assert {name: after.get(name) for name in before} == before
    # what is new are whole entries of the store: steps that were finished before the fault showed
    new = {name for name in after if name not in before}
    assert all(
        re.fullmatch(r"\.secateur/(steps|outputs|splits)/[0-9a-f]{64}/[\w.]+", name) for name in new
    ), new
    assert all((place / name).with_name("sums.json").is_file() for name in new)
    assert not list(place.rglob(".writing-*"))


def test_every_exit_code_was_met():
    assert {case.code for case in CASES} == {2, 3, 4, 5}
    assert len({case.name for case in CASES}) == len(CASES)


REAL = [
    "two faults in two places",
    "no plan file",
    "an absent class",
    "a damaged record, reported",
    "a model that says NaN",
    "an image that is none",
    "the hub without a network",
]


@pytest.mark.parametrize(
    "name", [REAL[0], *(pytest.param(name, marks=pytest.mark.slow) for name in REAL[1:])]
)
def test_so_it_is_in_a_real_process(command, place, name):
    (case,) = (case for case in CASES if case.name == name)
    words = case.words.split()
    process = command(*words, *(word for one in case.sets for word in ("--set", one)), cwd=place)
    out, err = process.communicate(timeout=120)
    check(case, process.returncode, out, err)
