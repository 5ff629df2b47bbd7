"""An Airflow DAG that runs the night where the models are; Airflow is no dependency of admodels."""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

HOME = "/opt/admodels"
PATH = {"PATH": f"{HOME}/.venv/bin:/usr/bin:/bin"}
# The alert is sent here, where the exit code is known; the task ends with the code of the night.
NIGHT = "admodels nightly || { code=$?; admodels alert --code $code; exit $code; }"

with DAG(
    "admodels_nightly",
    schedule="30 1 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    # Clear a task that failed: it goes on where it stopped. A retry would end well after an alarm
    # (5), because nothing is new to it, and hide it.
    default_args={"retries": 0},
):
    # No dead-man check here: a scheduler that is down does not ask it, and as the last task it
    # would turn a night that failed into a good run.
    BashOperator(
        task_id="nightly",
        bash_command=NIGHT,
        cwd=HOME,
        env=PATH,
        append_env=True,
        execution_timeout=timedelta(hours=6),
    )
