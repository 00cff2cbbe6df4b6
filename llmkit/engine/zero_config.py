"""The one dict that DeepSpeed is given. Every key is written out, since defaults have changed between
releases.

Nothing here is left to DeepSpeed's taste: what it would derive, average, scale, print or overlap is stated,
and `lint` names every key of its schema that this file does not know yet.
"""

from typing import Any

from llmkit.engine.recipe import Optim, Parallel

DEPRECATED = {
    "cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory", "elastic_checkpoint", "legacy_stage1",
    "stage3_gather_fp16_weights_on_model_save",
}  # fmt: skip
"""Keys of DeepSpeed's schema that it wants nobody to write any more."""

MAX_BUCKET = 200_000_000
"""Elements reduced or gathered at once: 0.8 GB in fp32, which keeps a link busy; fewer for small nets."""


def render(stage: int, parallel: Parallel, optim: Optim, numel: int, micro_rows: int = 1) -> dict[str, Any]:
    """The DeepSpeed config of one network of `numel` parameters at ZeRO `stage` (1, 2 or 3)."""
    bucket = min(MAX_BUCKET, numel + numel % 2)  # gathers start at multiples of 2 elements
    pure_bf16 = parallel.weights == "bf16"
    return {
        "train_micro_batch_size_per_gpu": micro_rows,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # step() is the boundary; no division
        "gradient_clipping": optim.clip,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "gradient_allreduce_op": "mean",  # the loop's share of the loss is multiplied by the world to undo it
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,  # it knows a few types by name, and ours is none of them
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "dump_state": False,
        "disable_allgather": False,
        "fp16": {"enabled": False},
        "bf16": {
            "enabled": pure_bf16,
            "immediate_grad_update": False,
            "check_grad_overflow": True,
            "bf16_master_weights_and_grads": False,
            "bf16_optimizer_states": False,
        },
        "torch_autocast": {
            "enabled": parallel.precision == "bf16" and not pure_bf16,
            "dtype": "bfloat16",
            # none: weights and gradients travel in fp32, as under ddp; products are rounded by autocast alone
            "lower_precision_safe_modules": [],
        },
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero(stage, parallel.offload, bucket),
    }


def zero(stage: int, offload: str, bucket: int) -> dict[str, Any]:
    """The `zero_optimization` section. `offload` is none, optimizer or params (which implies optimizer)."""
    host = {"device": "cpu", "pin_memory": False}
    return {
        "stage": stage,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": bucket,
        "use_multi_rank_bucket_allreduce": True,
        "allgather_partitions": True,
        "allgather_bucket_size": bucket,
        "overlap_comm": False,  # earlier releases had wrong gradients with it; no parity shown on a GPU yet
        "compute_grad_norm": True,
        "load_from_fp32_weights": True,
        "offload_param": {**host, "buffer_count": 5, "buffer_size": bucket} if offload == "params" else None,
        "offload_optimizer": {**host, "ratio": 1.0} if offload != "none" else None,
        "zenflow": None,
        "sub_group_size": 10**9,
        "stage3_prefetch_bucket_size": bucket // 4,
        "stage3_param_persistence_threshold": 0,  # restoring is bit-exact only if every parameter is split
        "stage3_model_persistence_threshold": 0,
        "stage3_max_live_parameters": 10**9,
        "stage3_max_reuse_distance": 10**9,
        "stage3_gather_16bit_weights_on_model_save": False,
        "stage3_module_granularity_threshold": 0,
        "stage3_use_all_reduce_for_fetch_params": False,
        "stage3_allgather_sequential": False,
        "ignore_unused_parameters": True,
        "round_robin_gradients": False,
        "parameter_alignment": False,
        "zero_hpz_partition_size": 1,
        "zero_quantized_weights": False,
        "zero_quantized_nontrainable_weights": False,
        "zero_quantized_gradients": False,
        "memory_efficient_linear": False,  # it would replace torch.nn.functional.linear for the whole process
        "override_module_apply": True,
        "pipeline_loading_checkpoint": False,
        "log_trace_cache_warnings": False,
        "enable_sanity_checks": False,
        "save_muon_momentum_buffer_in_memory": False,
        "leaf_module": {"classes": [], "names": [], "name_suffixes": []},
    }


def lint(section: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """Keys of `schema` (pydantic's `model_fields`) that `section` leaves out, and keys that it made up."""
    known = {field.alias or name for name, field in schema.items()} - DEPRECATED
    return sorted(known ^ set(section))
