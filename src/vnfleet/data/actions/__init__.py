"""Corporate actions: the steps between raw and adjusted prices, remembered as first learned and chained forward."""
