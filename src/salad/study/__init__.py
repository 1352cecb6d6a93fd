"""Many runs: sweeps, the small grid, ablations, findings, the scaling law."""
