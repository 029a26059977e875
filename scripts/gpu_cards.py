"""Cards that programs are compiled for, described for XLA's GPU compiler.

Dense rates without sparsity, boost clock, nominal memory: NVIDIA's architecture papers and data
sheets, https://www.nvidia.com/en-us/data-center/h100, /h200, /a100, /l40s, /l4, and "NVIDIA Ada GPU
Architecture" for the RTX 4090. Limits of a multiprocessor: the CUDA C++ Programming Guide's table
of technical specifications per compute capability.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A GPU: `memory` in bytes, `bandwidth` in bytes/s, `bfloat16` and `tf32` in FLOP/s."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    clock_ghz: float
    l2_mib: int
    memory: float
    bandwidth: float
    bfloat16: float
    tf32: float


CARDS = {
    "h100": Card("NVIDIA H100 SXM 80 GB", (9, 0), 132, 1.98, 50, 80e9, 3.35e12, 989e12, 494e12),
    "h200": Card("NVIDIA H200 SXM", (9, 0), 132, 1.98, 50, 141e9, 4.8e12, 989e12, 494e12),
    "a100": Card("NVIDIA A100 SXM 80 GB", (8, 0), 108, 1.41, 40, 80e9, 2.039e12, 312e12, 156e12),
    "l40s": Card("NVIDIA L40S", (8, 9), 142, 2.52, 96, 48e9, 0.864e12, 362e12, 183e12),
    "l4": Card("NVIDIA L4", (8, 9), 58, 2.04, 48, 24e9, 0.3e12, 121e12, 60e12),
    "rtx4090": Card(
        "NVIDIA GeForce RTX 4090", (8, 9), 128, 2.52, 72, 24e9, 1.008e12, 165e12, 82.6e12
    ),
}

# Per compute capability: float32 units and threads of a multiprocessor; bytes of its shared
# memory, and of what a block may take.
_LIMITS = {
    (8, 0): (64, 2048, 167936, 166912),
    (8, 9): (128, 1536, 102400, 101376),
    (9, 0): (128, 2048, 233472, 232448),
}


def target_config(card: Card) -> str:
    """Return the card as XLA's compiler takes it: the text of a `GpuTargetConfigProto`."""
    units, threads, shared, shared_of_block = _LIMITS[card.capability]
    major, minor = card.capability
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  core_count: {card.multiprocessors}
  clock_rate_ghz: {card.clock_ghz}
  fpus_per_core: {units}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: {threads}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared_of_block}
  shared_memory_per_core: {shared}
  l2_cache_size: {card.l2_mib * 2**20}
  memory_bandwidth: {card.bandwidth:.0f}
  device_memory_size: {card.memory:.0f}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{card.name}"
"""
