"""What needs no model: this machine's meters, a result recomputed, and every record as people read it. No torch."""

from halfwatt.meters.discover import findings as findings
from halfwatt.results.report.console import artifact_view as artifact_view
from halfwatt.results.report.console import comparison_view as comparison_view
from halfwatt.results.report.console import doctor_view as doctor_view
from halfwatt.results.report.console import emit as emit
from halfwatt.results.report.console import measured_view as measured_view
from halfwatt.results.report.console import plan_view as plan_view
from halfwatt.results.report.console import result_view as result_view
from halfwatt.results.report.console import transformed_view as transformed_view
from halfwatt.results.report.console import verification_view as verification_view
from halfwatt.results.verify import verify_file as verify_file
