"""An Airflow DAG that looks at a plant every hour; Airflow is no dependency of admodels."""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

PLANT = "/srv/admodels"
ENVIRONMENT = {"PATH": "/opt/admodels/.venv/bin:/usr/bin:/bin", "ADMODELS_PLANT": PLANT}
# The alert is sent here, where the exit code is known; the task ends with the code of the look.
LOOK = "admodels nightly || { code=$?; admodels alert --code $code; exit $code; }"

with DAG(
    "admodels_nightly",
    # Every hour, and so 5 minutes after day_ends ('06:00'; of '06:30' write 35).
    schedule="5 * * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    # Clear a task that failed: it goes on where it stopped. A retry would end well after an alarm
    # (5), because nothing is new to it, and hide it.
    default_args={"retries": 0},
):
    # No dead-man check here: a scheduler that is down does not ask it, and as the last task it
    # would turn a look that failed into a good run.
    BashOperator(
        task_id="nightly",
        bash_command=LOOK,
        cwd=PLANT,
        env=ENVIRONMENT,
        append_env=True,
        execution_timeout=timedelta(hours=6),
    )
