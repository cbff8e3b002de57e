# Written by python tools/generate.py: types for names that are loaded lazily. Do not edit.

from secateur.lab.cost import Estimated as Estimated
from secateur.lab.cost import estimate as estimate
from secateur.lab.engine import run_grid as run_grid
from secateur.lab.engine import run_plan as run_plan
from secateur.lab.grid import expand as expand
from secateur.lab.grid import load as load
from secateur.lab.log import GridStatus as GridStatus
from secateur.lab.log import status as status
from secateur.lab.plan import Plan as Plan
from secateur.lab.read import read_plan as read_plan
from secateur.lab.review import audit_run as audit_run
from secateur.lab.store import Store as Store
from secateur.lab.storekeeping import check_store as check_store
from secateur.lab.storekeeping import export_run as export_run
from secateur.lab.storekeeping import find_unused as find_unused
from secateur.lab.storekeeping import remove_unused as remove_unused
from secateur.lab.toml import to_toml as to_toml
from secateur.lab.tune import rehearse as rehearse
from secateur.lab.tune import tune_plan as tune_plan
from secateur.lab.tuned import Tuned as Tuned
from secateur.lab.tuned import tuned_plans as tuned_plans
