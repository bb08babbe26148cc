"""From a trained set to what serves on Monday: gate, registry, deploy and rollback, live predictions."""
