"""Say in advance whether a pipeline is served, by what, and what it costs: `ertacache.doctor`.

`examine` is the public function and puts a `Diagnosis` together (`result`; `wording` prints it). `ways` has which ways
work, by the checks that calls and calibrations make themselves; `denoiser_facts` and `scheduler_facts` what the
pipeline consists of; `advice` what deserves a note; `trial` makes a short call, and `estimate` what follows from it.
"""

from ertacache.diagnosis.examine import doctor
from ertacache.diagnosis.result import Diagnosis

__all__ = ["Diagnosis", "doctor"]
