# Written by python tools/generate.py: types for names that are loaded lazily. Do not edit.

from secateur import audits as audits
from secateur import data as data
from secateur import errors as errors
from secateur import knobs as knobs
from secateur import lab as lab
from secateur import maths as maths
from secateur import report as report
from secateur import stats as stats
from secateur import steps as steps
from secateur import testing as testing
from secateur import zoo as zoo
from secateur.audit import Audit as Audit
from secateur.audit import Needs as Needs
from secateur.audit import judge as judge
from secateur.card import Card as Card
from secateur.data import Batch as Batch
from secateur.data import Loader as Loader
from secateur.data import Role as Role
from secateur.data import View as View
from secateur.data import paired as paired
from secateur.evidence import Evidence as Evidence
from secateur.evidence import Reference as Reference
from secateur.maths.augment import crop_flip as crop_flip
from secateur.observe import measure as measure
from secateur.observe import observe as observe
from secateur.optimize import Sgd as Sgd
from secateur.optimize import cross_entropy as cross_entropy
from secateur.optimize import optimize as optimize
from secateur.outputs import Outputs as Outputs
from secateur.record import Estimate as Estimate
from secateur.record import Finding as Finding
from secateur.record import Record as Record
from secateur.record import StepTrace as StepTrace
from secateur.run import Run as Run
from secateur.split import Split as Split
from secateur.state import Mark as Mark
from secateur.state import State as State
from secateur.step import Applied as Applied
from secateur.step import Step as Step
from secateur.step import apply as apply

__version__: str
