# Written by python tools/generate.py: types for names that are loaded lazily. Do not edit.

from secateur.audits.accuracy import Accuracy as Accuracy
from secateur.audits.attack_success import AttackSuccess as AttackSuccess
from secateur.audits.divergence import Divergence as Divergence
from secateur.audits.epsilon import Epsilon as Epsilon
from secateur.audits.iam import Iam as Iam
from secateur.audits.klom import Klom as Klom
from secateur.audits.mia_efficacy import MiaEfficacy as MiaEfficacy
from secateur.audits.mia_privacy import MiaPrivacy as MiaPrivacy
from secateur.audits.oracle_free import OracleFree as OracleFree
from secateur.audits.retain_exposure import RetainExposure as RetainExposure
from secateur.audits.retrain_gap import RetrainGap as RetrainGap
from secateur.audits.rmia import Rmia as Rmia
from secateur.audits.threshold import Threshold as Threshold
from secateur.audits.tug_of_war import TugOfWar as TugOfWar
from secateur.audits.u_lira import ULira as ULira
from secateur.card import Shelf

shelf: Shelf
