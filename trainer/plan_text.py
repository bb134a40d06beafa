"""A plan as lines for people. Pure functions."""

from __future__ import annotations

from trainer.plan import RunPlan, StageMemory
from trainer.plan_memory import Setting
from trainer.plan_search import Found
from trainer.zero import engine_stage

_GIB = 1 << 30
_NAMED_STAGES = {"none": "", "optimizer": ", optimizer offloaded", "all": ", all offloaded"}


def plan_text(plan: RunPlan) -> str:
    """The whole plan."""
    parts = (_model_lines(plan), _memory_lines(plan), _stage_lines(plan), _fit_lines(plan), _time_lines(plan))
    return "\n".join(line for part in parts for line in part)


def size_text(size: float) -> str:
    """Bytes as people read them."""
    for unit, name in ((_GIB << 10, "TiB"), (_GIB, "GiB"), (1 << 20, "MiB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size / 1024:,.1f} KiB"


def setting_text(setting: Setting) -> str:
    """What of the run file a setting is."""
    offload = "" if setting.offload == "none" else f", zero.offload {setting.offload}"
    return (
        f"zero.stage {setting.stage}, micro_batch_size {setting.micro_batch}, "
        f"activation_checkpointing {setting.checkpointing}{offload}"
    )


def duration_text(seconds: float) -> str:
    """A time in its unit."""
    for unit, name in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:,.3g} s"


def _model_lines(plan: RunPlan) -> list[str]:
    trained = "" if plan.trained_parameters == plan.parameters else f", {plan.trained_parameters:,} of them trained"
    batch, per_step = plan.batch, plan.tokens // max(plan.steps, 1)
    return [
        f"model: {plan.parameters:,} parameters{trained}; {plan.vocab_size:,} token ids; computes in {plan.precision}",
        f"length: {plan.tokens:,} tokens in {plan.steps:,} steps "
        f"of {batch.global_batch:,} sequences ({per_step:,} tokens)",
        f"ranks: {batch.world_size}, each {batch.accumulation} passes of {batch.micro_batch} sequences a step",
    ]


def _memory_lines(plan: RunPlan) -> list[str]:
    memory, setting = plan.memory, plan.setting
    engine = engine_stage(setting.stage, setting.offload, plan.batch.world_size, plan.precision)
    alone = "" if engine == setting.stage else f" (one rank in {plan.precision} trains at stage {engine})"
    states = ", ".join(f"{name} {size_text(size)}" for name, size in memory.states.items() if size)
    lines = [
        f"memory of a rank with {setting_text(setting)}{alone}:",
        f"  states {size_text(sum(memory.states.values()))}: {states}",
        f"  activations {size_text(memory.activations)} of a pass; highest at: {memory.peak_moment}, "
        f"{size_text(memory.peak)} in all",
        f"  in the host's memory: {size_text(memory.arena)} for the copy that a save is written from, "
        f"{size_text(memory.snapshots)} for snapshots",
    ]
    if memory.host:
        lines.append(f"  offloaded to the host: {size_text(memory.host)}")
    return lines


def _stage_lines(plan: RunPlan) -> list[str]:
    lines = ["  stage                      formula      at rest      highest"]
    for one in plan.stages:
        mark = "" if one.fits else "   does not fit"
        sizes = "".join(f"{size_text(size):>13}" for size in (one.formula, one.rest, one.peak))
        lines.append(f"  {_stage_name(one):<21}{sizes}{mark}")
    return [*lines, "  (formula: Rajbhandari et al. 2020; the other two: what DeepSpeed allocates)"]


def _stage_name(one: StageMemory) -> str:
    return f"{one.stage}{_NAMED_STAGES[one.offload]}"


def _fit_lines(plan: RunPlan) -> list[str]:
    hardware = plan.hardware
    room = f"{size_text(plan.needed_bytes)} of {size_text(hardware.memory_bytes)} that a rank has on {hardware.name}"
    if plan.fits:
        return [f"fits: {room}"]
    if not plan.nearest:
        return [f"does not fit: {room}; no setting tried does, so take more ranks or a smaller model"]
    return [f"does not fit: {room}; these do, the fastest first:", *map(_found_line, plan.nearest)]


def _found_line(found: Found) -> str:
    return f"  {setting_text(found.setting)}: {size_text(found.needed_bytes)}"


def _time_lines(plan: RunPlan) -> list[str]:
    hardware, time, saved = plan.hardware, plan.time, plan.checkpoint
    peak = f"{hardware.flops_per_second / 1e12:,.3g} TFLOP/s {'measured' if hardware.is_measured else 'published'}"
    return [
        f"time: {time.flops:.3g} FLOPs at {hardware.utilisation:.0%} (assumed) of {peak} a rank: step "
        f"{duration_text(time.step_seconds)}, {time.tokens_per_second:,.0f} tokens/s, "
        f"run {duration_text(3600 * time.hours)}",
        f"checkpoint: {size_text(saved.bytes)}, {duration_text(saved.seconds)} at "
        f"{hardware.disk_bytes_per_second / 1e9:,.3g} GB/s; with a failure each "
        f"{duration_text(hardware.seconds_between_failures)} save every {duration_text(saved.daly_seconds)} (Daly "
        f"2006; Young 1974: {duration_text(saved.young_seconds)}). Training stops for the copy "
        "alone, so that more often costs little",
    ]
