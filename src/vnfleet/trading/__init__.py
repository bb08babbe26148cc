"""An account under Vietnamese rules: policies, daily simulator, benchmarks, and the plan's figures per symbol."""
