# Written by python tools/generate.py: types for names that are loaded lazily. Do not edit.

from secateur.audits.accuracy import Accuracy as Accuracy
from secateur.audits.mia_efficacy import MiaEfficacy as MiaEfficacy
from secateur.audits.mia_privacy import MiaPrivacy as MiaPrivacy
from secateur.audits.oracle_free import OracleFree as OracleFree
from secateur.audits.retrain_gap import RetrainGap as RetrainGap
from secateur.card import Shelf

shelf: Shelf
