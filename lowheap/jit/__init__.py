"""Everything that emits or runs machine code: emission, barriers, safepoints, stack maps, the engine."""
