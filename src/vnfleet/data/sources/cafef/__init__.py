"""CafeF: bulk zips of the whole market, and its pages stock by stock."""
