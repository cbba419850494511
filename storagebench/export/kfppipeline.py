"""Components and pipeline for Kubeflow Pipelines. Needs the extra `kubeflow`; imported by `kfpcompile` only, and by whoever runs the pipeline locally.

The functions whose names end in `_step` are copied by kfp, as source, into the pods: each is complete in itself and calls `kfpsteps` of the image. So this
module has no postponed annotations, which kfp would read as text. Results are never taken from a cache: a benchmark that returns an old number is none.
"""
# ruff: noqa: UP006, UP035 - kfp reads these annotations

from typing import Any, List

from kfp import dsl


def generate_step(workload: str, data_dir: str, options: List[str], exists: bool, dataset: dsl.Output[dsl.Artifact]) -> None:
    """Make the dataset."""
    from storagebench.export import kfpsteps

    kfpsteps.generate(workload, data_dir, options, exists, dataset.path)


def verify_step(data_dir: str, options: List[str], verified: dsl.Output[dsl.Artifact]) -> None:
    """Is the dataset whole."""
    from storagebench.export import kfpsteps

    kfpsteps.verify(data_dir, options, verified.path)


def run_step(workload: str, data_dir: str, options: List[str], run_folder: dsl.Output[dsl.Artifact], metrics: dsl.Output[dsl.Metrics]) -> None:
    """Measure."""
    from storagebench.export import kfpsteps

    for name, value in kfpsteps.measure(workload, data_dir, options, run_folder.path).items():
        metrics.log_metric(name, value)


def check_step(run_folder: dsl.Input[dsl.Artifact], rules: str, verdict: dsl.Output[dsl.Artifact]) -> bool:
    """Is the run valid, does it meet the rules."""
    from storagebench.export import kfpsteps

    return kfpsteps.check(run_folder.path, rules, verdict.path)


def report_step(run_folder: dsl.Input[dsl.Artifact], passed: bool, page: dsl.Output[dsl.HTML], metrics: dsl.Output[dsl.Metrics]) -> None:
    """The run's page and figures."""
    from storagebench.export import kfpsteps

    for name, value in kfpsteps.report(run_folder.path, page.path).items():
        metrics.log_metric(name, value)
    metrics.log_metric("passed", float(passed))


def gate_step(passed: bool) -> None:
    """End the pipeline as failed where the run did not pass: after the report, which says why."""
    if not passed:
        raise SystemExit("error: the run did not pass its check\nhint: see the page and the verdict of the steps before")


def component(function: Any, image: str) -> Any:
    """A lightweight component in our image, which has kfp already: nothing is installed when it starts."""
    return dsl.component(base_image=image, install_kfp_package=False)(function)


def measurement(image: str) -> Any:
    """The container component: one measurement with typed figures and a page, for pipelines of one's own. Local runners need Docker for it."""

    def storagebench_run(
        workload: str,
        data_dir: str,
        options: List[str],
        run_folder: dsl.Output[dsl.Artifact],
        metrics: dsl.Output[dsl.Metrics],
        page: dsl.Output[dsl.HTML],
        au: dsl.OutputPath(float),  # type: ignore[valid-type]
    ) -> Any:
        words = ["--workload", workload, "--data-dir", data_dir, "--options", options, "--run-folder", run_folder.path, "--html", page.path]
        words += ["--au", au, "--metrics", metrics.path, "--executor-output", dsl.PIPELINE_TASK_EXECUTOR_OUTPUT_PATH_PLACEHOLDER]
        return dsl.ContainerSpec(image=image, command=["python3", "-P", "-m", "storagebench.export.kfpsteps"], args=words)

    storagebench_run.__annotations__["return"] = dsl.ContainerSpec
    return dsl.container_component(storagebench_run)


def pipeline(name: str, image: str, defaults: dict[str, Any], prepare: Any = None) -> Any:
    """generate -> verify -> run -> check -> report, then the gate.

    `defaults` are the values of its parameters. `prepare(task, writes)` is called for each step that reads the dataset, with whether it writes there: it
    gives the step its volumes, secrets and nodes.
    """
    generate, verify, run = (component(function, image) for function in (generate_step, verify_step, run_step))
    check, report, gate = (component(function, image) for function in (check_step, report_step, gate_step))

    def storagebench_pipeline(
        workload: str = defaults["workload"],
        data_dir: str = defaults["data_dir"],
        generate_options: List[str] = defaults["generate_options"],
        storage_options: List[str] = defaults["storage_options"],
        run_options: List[str] = defaults["run_options"],
        exists: bool = defaults["exists"],
        rules: str = defaults["rules"],
    ) -> None:
        made = generate(workload=workload, data_dir=data_dir, options=generate_options, exists=exists)
        whole = verify(data_dir=data_dir, options=storage_options).after(made)
        measured = run(workload=workload, data_dir=data_dir, options=run_options).after(whole)
        checked = check(run_folder=measured.outputs["run_folder"], rules=rules)
        passed = checked.outputs["Output"]
        page = report(run_folder=measured.outputs["run_folder"], passed=passed)
        last = gate(passed=passed).after(page)
        for task in (made, whole, measured, checked, page, last):
            task.set_caching_options(False)
        if prepare is not None:
            for task, writes in ((made, True), (whole, False), (measured, False)):
                prepare(task, writes)

    return dsl.pipeline(name=name, description="storagebench: generate, verify, run, check, report")(storagebench_pipeline)
